// A form made from a JSON schema, as handlers' signatures give it. Each field reads and writes its part of the value.
//
// A field is {node, read(problems), write(value), at(segments), fail(message), clear()}: `read` answers OMITTED for
// what is left to its default, and adds {field, message} to `problems`; `write` answers whether it can show the value;
// `at` finds the field that a path names, or the nearest one around it.

import { parse, stringify } from "./api.js";
import { attribute, h, replace, text } from "./dom.js";
import { number, same } from "./exact.js";

/** What a field answers that is left to its default. */
export const OMITTED = Symbol("omitted");

let fields = 0;

/** The form of a schema: the field of the whole value. */
export function schemaForm(schema) {
  const definitions = schema.$defs ?? {};
  const root = plain(schema, definitions);
  const { inner } = withoutNull(root.schema);
  if (inner.type === "object" && inner.properties) return groupField(inner, { definitions, bare: true });
  return fieldOf(schema, { name: "payload", required: true, definitions });
}

/** Whether the schema says anything that a form could show. */
export function hasForm(schema) {
  const { inner } = withoutNull(plain(schema, schema.$defs ?? {}).schema);
  return Boolean(inner.properties ?? inner.enum ?? inner.anyOf ?? (inner.type && inner.type !== "object"));
}

/** "$.payload.items[2].name" as ["payload", "items", 2, "name"]. */
export function segments(path) {
  return [...path.matchAll(/\.([^.[\]]+)|\[(\d+|\.\.\.)\]/g)].map(([, key, index]) => key ?? (/^\d/.test(index) ? Number(index) : index));
}

function plain(schema, definitions) {
  let found = schema;
  // A reference to a reference is as deep as schemas of handlers go; a loop would be its writer's.
  for (let depth = 0; found.$ref !== undefined && depth < 8; depth += 1) {
    const { $ref, ...beside } = found;
    found = { ...definitions[$ref.slice($ref.lastIndexOf("/") + 1)], ...beside };
  }
  return { schema: found };
}

function withoutNull(schema) {
  if (Array.isArray(schema.type)) {
    const types = schema.type.filter((type) => type !== "null");
    const inner = { ...schema, type: types.length === 1 ? types[0] : types };
    return { inner, nullable: types.length < schema.type.length };
  }
  if (!schema.anyOf) return { inner: schema, nullable: false };
  const { anyOf, ...beside } = schema;
  const variants = anyOf.filter((variant) => variant.type !== "null");
  const inner = variants.length === 1 ? { ...variants[0], ...beside } : { ...beside, anyOf: variants };
  return { inner, nullable: variants.length < anyOf.length };
}

function fieldOf(schema, context) {
  const { definitions } = context;
  const { inner, nullable } = withoutNull(plain(schema, definitions).schema);
  const found = plain(inner, definitions).schema;
  const here = { ...context, nullable: nullable || context.nullable === true, optional: !context.required };
  if (found.anyOf?.length === 1) return fieldOf({ ...found, ...found.anyOf[0], anyOf: undefined }, here);
  if (found.anyOf) return variantField(found, here);
  if (found.enum ?? found.const !== undefined) return choiceField(found, here);
  switch (found.type) {
    case "string":
      return textField(found, here);
    case "integer":
    case "number":
      return numberField(found, here);
    case "boolean":
      return booleanField(found, here);
    case "array":
      return found.prefixItems ? absentable(found, here, tupleField) : absentable(found, here, listField);
    case "object":
      if (found.properties) return absentable(found, here, groupField);
      if (found.additionalProperties && typeof found.additionalProperties === "object") {
        return absentable(found, here, mapField);
      }
  }
  return jsonField(found, here);
}

// How a type is called beside its field.
function kindOf(schema, context) {
  const parts = [];
  if (schema.enum) parts.push("choice");
  else if (typeof schema.type === "string") parts.push(schema.type === "object" && !schema.properties ? "map" : schema.type);
  if (schema.format) parts.push(schema.format);
  const low = schema.minimum ?? schema.exclusiveMinimum;
  const high = schema.maximum ?? schema.exclusiveMaximum;
  if (low !== undefined && high !== undefined) parts.push(`${low} to ${high}`);
  else if (low !== undefined) parts.push(schema.minimum === undefined ? `over ${low}` : `at least ${low}`);
  else if (high !== undefined) parts.push(`at most ${high}`);
  if (schema.minLength > 1) parts.push(`${schema.minLength}+ characters`);
  if (schema.maxLength !== undefined) parts.push(`up to ${schema.maxLength} characters`);
  if (context.optional) parts.push("optional");
  return parts.join(", ");
}

// The frame of a field of one control: its label, kind, description and error.
function framed(schema, context, control, { check = false } = {}) {
  fields += 1;
  const id = `field-${fields}`;
  const error = h("p", { class: "error", id: `${id}-error`, hidden: true });
  const described = [schema.description ? `${id}-note` : null, `${id}-error`].filter(Boolean).join(" ");
  control.id = id;
  control.setAttribute("aria-describedby", described);
  if (context.required && !context.nullable && !check) control.setAttribute("aria-required", "true");
  const label = h(
    "label",
    { for: id, class: "field-head" },
    h("span", { class: "field-name" }, context.name),
    h("span", { class: "hint" }, kindOf(schema, context)),
  );
  const note = schema.description ? h("p", { class: "hint", id: `${id}-note` }, schema.description) : null;
  const node = check
    ? h("div", { class: "field field-check" }, control, label, note, error)
    : h("div", { class: "field" }, label, control, note, error);
  const fail = (message) => {
    error.textContent = message;
    error.hidden = false;
    control.setAttribute("aria-invalid", "true");
  };
  const clear = () => {
    error.hidden = true;
    error.textContent = "";
    control.removeAttribute("aria-invalid");
  };
  control.addEventListener("input", clear);
  return { node, fail, clear, focus: () => control.focus() };
}

function leaf(frame, parts) {
  const field = { ...frame, ...parts, at: () => field };
  return field;
}

function left(context, problems, field) {
  if (context.optional) return OMITTED;
  if (context.nullable) return null;
  problems.push({ field: field(), message: "Required" });
  return OMITTED;
}

function hintOf(schema) {
  return schema.default === undefined || schema.default === null ? "" : `default: ${stringify(schema.default).replace(/^"(.*)"$/, "$1")}`;
}

function textField(schema, context) {
  const short = schema.pattern !== undefined || schema.format !== undefined || (schema.maxLength ?? Infinity) <= 100;
  const control = short
    ? h("input", { type: "text", autocomplete: "off", spellcheck: "false" })
    : h("textarea", { rows: "1", spellcheck: "false" });
  control.placeholder = hintOf(schema);
  const field = leaf(framed(schema, context, control), {
    read: (problems) => (control.value === "" ? left(context, problems, () => field) : control.value),
    write: (value) => {
      control.value = value === null ? "" : value;
      return typeof value === "string" ? value !== "" : value === null && context.nullable;
    },
  });
  return field;
}

function numberField(schema, context) {
  const inputmode = schema.type === "integer" ? "numeric" : "decimal";
  const control = h("input", { type: "text", inputmode, autocomplete: "off" });
  control.placeholder = hintOf(schema);
  const field = leaf(framed(schema, context, control), {
    read: (problems) => {
      const text = control.value.trim();
      if (text === "") return left(context, problems, () => field);
      const value = number(text);
      if (value === undefined) problems.push({ field, message: `Expected ${schema.type === "integer" ? "an integer" : "a number"}` });
      return value ?? OMITTED;
    },
    write: (value) => {
      const text = value === null ? "" : stringify(value);
      control.value = text;
      return value === null ? context.nullable : number(text) !== undefined;
    },
  });
  return field;
}

function booleanField(schema, context) {
  if (context.nullable || (context.optional && schema.default === undefined)) {
    return choiceField({ ...schema, enum: [true, false] }, context);
  }
  const control = h("input", { type: "checkbox" });
  control.checked = schema.default === true;
  const field = leaf(framed(schema, context, control, { check: true }), {
    read: () => (context.optional && control.checked === schema.default ? OMITTED : control.checked),
    write: (value) => {
      control.checked = value === true;
      return typeof value === "boolean";
    },
  });
  return field;
}

function choiceField(schema, context) {
  const values = schema.enum ? [...schema.enum] : [schema.const];
  if (context.nullable && !values.includes(null)) values.push(null);
  const shown = (value) => (typeof value === "string" ? value : stringify(value));
  const options = values.map((value, index) => h("option", { value: String(index) }, shown(value)));
  const blank = context.optional
    ? h("option", { value: "" }, schema.default === undefined ? "(default)" : `(default: ${shown(schema.default)})`)
    : null;
  const control = h("select", null, blank, options);
  const frame = framed(schema, context, control);
  // Nothing to choose: it names the variant.
  frame.node.hidden = options.length === 1 && blank === null;
  const field = leaf(frame, {
    read: () => (control.value === "" ? OMITTED : values[Number(control.value)]),
    write: (value) => {
      const index = values.findIndex((one) => same(one, value));
      if (index >= 0) control.value = String(index);
      return index >= 0;
    },
  });
  return field;
}

function jsonField(schema, context) {
  const control = h("textarea", { rows: "3", class: "code", spellcheck: "false" });
  control.placeholder = hintOf(schema) || "any JSON";
  const field = leaf(framed(schema, context, control), {
    read: (problems) => {
      if (control.value.trim() === "") return left({ ...context, nullable: true }, problems, () => field);
      try {
        return parse(control.value);
      } catch (error) {
        problems.push({ field, message: `Not JSON: ${error.message}` });
        return OMITTED;
      }
    },
    write: (value) => {
      control.value = value === null && !context.required ? "" : stringify(value, 2);
      return true;
    },
  });
  return field;
}

// A part with a heading of its own. What may be left out begins as a button that adds it.
function absentable(schema, context, build) {
  if (!context.optional && !context.nullable) return build(schema, context);
  const holder = h("div", { class: "field field-absentable" });
  let part = null;
  const add = h("button", { type: "button", class: "button tiny", onclick: () => show().focus?.() }, `Add ${context.name}`);
  const remove = h(
    "button",
    { type: "button", class: "button quiet tiny", onclick: () => { hide(); add.focus(); } },
    `Leave out ${context.name}`,
  );
  const kind = h("span", { class: "hint" }, kindOf(schema, context), schema.default === undefined || schema.default === null ? "" : `, ${hintOf(schema)}`);
  const note = schema.description ? h("p", { class: "hint" }, schema.description) : null;
  const error = h("p", { class: "error", hidden: true });
  function hide() {
    part = null;
    replace(holder, h("div", { class: "field-head" }, h("span", { class: "field-name" }, context.name), kind), add, note, error);
  }
  function show() {
    part = build(schema, context);
    replace(holder, part.node, remove);
    return part;
  }
  hide();
  return {
    node: holder,
    read: (problems) => (part ? part.read(problems) : left(context, problems, () => part)),
    write: (value) => {
      if (value === null && context.nullable) {
        hide();
        return true;
      }
      return show().write(value);
    },
    at(path) {
      return part && path.length ? part.at(path) : this;
    },
    fail: (message) => {
      if (part) part.fail(message);
      else {
        error.textContent = message;
        error.hidden = false;
      }
    },
    clear: () => {
      error.hidden = true;
      part?.clear();
    },
    focus: () => (part ? part.focus?.() : add.focus()),
  };
}

function outlined(schema, context, ...content) {
  const error = h("p", { class: "error", hidden: true });
  const node = context.bare
    ? h("div", { class: "stack" }, content, error)
    : h(
        "fieldset",
        { class: "field-group" },
        h("legend", null, h("span", { class: "field-name" }, context.name), h("span", { class: "hint" }, kindOf(schema, context))),
        schema.description ? h("p", { class: "hint" }, schema.description) : null,
        content,
        error,
      );
  return {
    node,
    fail: (message) => {
      error.textContent = message;
      error.hidden = false;
    },
    clear: () => {
      error.hidden = true;
    },
    focus: () => node.querySelector("input, textarea, select, button")?.focus(),
  };
}

function groupField(schema, context) {
  const required = new Set(schema.required ?? []);
  const children = new Map(
    Object.entries(schema.properties).map(([name, child]) => [
      name,
      fieldOf(child, { name, required: required.has(name), definitions: context.definitions }),
    ]),
  );
  const content = [...children.values()].map((child) => child.node);
  const none = children.size === 0 ? h("p", { class: "hint" }, "This type takes no payload.") : null;
  const frame = outlined(schema, context, content, none);
  return {
    ...frame,
    read: (problems) => {
      const value = {};
      for (const [name, child] of children) {
        const found = child.read(problems);
        if (found !== OMITTED) value[name] = found;
      }
      return value;
    },
    write: (value) => {
      if (value === null && context.bare) return true;
      if (value === null || typeof value !== "object" || Array.isArray(value)) return false;
      let whole = true;
      for (const [name, part] of Object.entries(value)) whole = (children.get(name)?.write(part) ?? false) && whole;
      return whole;
    },
    at(path) {
      const child = children.get(path[0]);
      return child ? child.at(path.slice(1)) : this;
    },
    // A missing field is told of at the object around it.
    fail: (message) => {
      const child = children.get(/missing required field `(.+)`/.exec(message)?.[1]);
      (child ?? frame).fail(child ? "Required" : message);
    },
    clear: () => {
      frame.clear();
      for (const child of children.values()) child.clear();
    },
  };
}

function listField(schema, context) {
  let items = [];
  const rows = h("div", { class: "field-rows" });
  const add = h("button", { type: "button", class: "button tiny", onclick: () => append().focus?.() }, "Add an item");
  const frame = outlined(schema, context, rows, add);
  function append() {
    const child = fieldOf(schema.items || {}, { name: `${context.name}[${items.length}]`, required: true, definitions: context.definitions });
    const remove = h(
      "button",
      { type: "button", class: "button quiet tiny", "aria-label": `Remove this item of ${context.name}`, onclick: () => drop(row) },
      "✕",
    );
    const row = { child, node: h("div", { class: "field-row" }, child.node, remove) };
    items.push(row);
    rows.append(row.node);
    return child;
  }
  function drop(row) {
    const problems = [];
    const rest = items.filter((one) => one !== row).map((one) => one.child.read(problems));
    write(rest.map((value) => (value === OMITTED ? null : value)));
    add.focus();
  }
  function write(value) {
    if (!Array.isArray(value)) return false;
    items = [];
    replace(rows);
    return value.map((one) => append().write(one)).every(Boolean);
  }
  for (let count = 0; count < (schema.minItems ?? (context.required ? 0 : 1)); count += 1) append();
  return {
    ...frame,
    read: (problems) => items.map((row) => row.child.read(problems)).filter((value) => value !== OMITTED),
    write,
    at(path) {
      const row = items[path[0]];
      return row ? row.child.at(path.slice(1)) : this;
    },
    clear: () => {
      frame.clear();
      for (const row of items) row.child.clear();
    },
  };
}

function tupleField(schema, context) {
  const children = schema.prefixItems.map((item, index) =>
    fieldOf(item, { name: `${context.name}[${index}]`, required: true, definitions: context.definitions }),
  );
  const frame = outlined(schema, context, children.map((child) => child.node));
  return {
    ...frame,
    read: (problems) => {
      const values = children.map((child) => child.read(problems));
      return values.includes(OMITTED) ? OMITTED : values;
    },
    write: (value) =>
      Array.isArray(value) && value.length === children.length && value.map((one, index) => children[index].write(one)).every(Boolean),
    at(path) {
      return children[path[0]]?.at(path.slice(1)) ?? this;
    },
    clear: () => {
      frame.clear();
      for (const child of children) child.clear();
    },
  };
}

function mapField(schema, context) {
  let rows = [];
  const holder = h("div", { class: "field-rows" });
  const add = h("button", { type: "button", class: "button tiny", onclick: () => append().key.focus() }, "Add an entry");
  const frame = outlined(schema, context, holder, add);
  function append(name = "") {
    const key = h("input", { type: "text", class: "field-key", "aria-label": `Key of an entry of ${context.name}`, placeholder: "key", autocomplete: "off" });
    key.value = name;
    const child = fieldOf(schema.additionalProperties, { name: "value", required: true, definitions: context.definitions });
    const remove = h(
      "button",
      {
        type: "button",
        class: "button quiet tiny",
        "aria-label": `Remove this entry of ${context.name}`,
        onclick: () => {
          rows = rows.filter((one) => one !== row);
          row.node.remove();
          add.focus();
        },
      },
      "✕",
    );
    const error = h("p", { class: "error", hidden: true });
    const field = {
      fail: (message) => {
        text(error, message);
        error.hidden = false;
        attribute(key, "aria-invalid", "true");
      },
      clear: () => {
        error.hidden = true;
        attribute(key, "aria-invalid", null);
      },
      focus: () => key.focus(),
    };
    key.addEventListener("input", field.clear);
    const row = { key, child, field, node: h("div", { class: "field-row" }, key, child.node, remove, error) };
    rows.push(row);
    holder.append(row.node);
    return row;
  }
  return {
    ...frame,
    read: (problems) => {
      const value = {};
      for (const row of rows) {
        const found = row.child.read(problems);
        if (row.key.value === "" || Object.hasOwn(value, row.key.value)) problems.push({ field: row.field, message: "Key missing or used twice" });
        else if (found !== OMITTED) Object.defineProperty(value, row.key.value, { value: found, enumerable: true });
      }
      return value;
    },
    write: (value) => {
      if (value === null || typeof value !== "object" || Array.isArray(value)) return false;
      rows = [];
      replace(holder);
      return Object.entries(value).map(([name, part]) => append(name).child.write(part)).every(Boolean);
    },
    at(path) {
      return rows.find((row) => row.key.value === path[0])?.child.at(path.slice(1)) ?? this;
    },
    clear: () => {
      frame.clear();
      for (const row of rows) {
        row.field.clear();
        row.child.clear();
      }
    },
  };
}

// One of several: which one is chosen first.
function variantField(schema, context) {
  const variants = schema.anyOf.flatMap((variant) => {
    const found = plain(variant, context.definitions).schema;
    return found.anyOf ? found.anyOf.map((one) => plain(one, context.definitions).schema) : [found];
  });
  const nameOf = (variant, index) => variant.title ?? (typeof variant.type === "string" ? variant.type : `variant ${index + 1}`);
  const blank = context.optional || context.nullable;
  const choose = h(
    "select",
    { "aria-label": `Kind of ${context.name}`, onchange: () => show(choose.value === "" ? null : Number(choose.value)) },
    blank ? h("option", { value: "" }, context.optional ? `(default${hintOf(schema).slice(7)})` : "null") : null,
    variants.map((variant, index) => h("option", { value: String(index) }, nameOf(variant, index))),
  );
  const holder = h("div", { class: "stack" });
  const frame = outlined(schema, context, choose, holder);
  let part = null;
  // An object needs no frame within this one.
  function partOf(variant) {
    const inner = { name: context.name, required: true, definitions: context.definitions };
    return variant.type === "object" && variant.properties ? groupField(variant, { ...inner, bare: true }) : fieldOf(variant, inner);
  }
  function show(index) {
    part = index === null ? null : partOf(variants[index]);
    choose.value = index === null ? "" : String(index);
    replace(holder, part?.node ?? null);
    return part;
  }
  show(blank ? null : 0);
  return {
    ...frame,
    read: (problems) => (part ? part.read(problems) : context.optional ? OMITTED : null),
    write: (value) => {
      if (value === null && context.nullable) {
        show(null);
        return true;
      }
      const index = variants.findIndex((_, at) => {
        const problems = [];
        const tried = show(at);
        return tried.write(value) && same(tried.read(problems), value) && problems.length === 0;
      });
      if (index < 0) show(blank ? null : 0);
      return index >= 0;
    },
    at(path) {
      return part && path.length ? part.at(path) : this;
    },
    clear: () => {
      frame.clear();
      part?.clear();
    },
  };
}
