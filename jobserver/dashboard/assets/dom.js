// Builds and changes nodes. Text is only ever text: nothing here reads markup.

const SVG = "http://www.w3.org/2000/svg";
const PROPERTIES = new Set(["value", "checked", "disabled", "selected", "indeterminate", "open", "readOnly", "required"]);

/** An element. Functions become listeners, `dataset` and `style` are objects, absent values leave nothing behind. */
export function h(tag, props, ...children) {
  return build(document.createElement(tag), props, children);
}

/** An SVG element. */
export function svg(tag, props, ...children) {
  return build(document.createElementNS(SVG, tag), props, children);
}

function build(node, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) set(node, name, value);
  append(node, children);
  return node;
}

function set(node, name, value) {
  if (value === null || value === undefined) return;
  if (name === "dataset") {
    for (const [key, each] of Object.entries(value)) if (each !== null && each !== undefined) node.dataset[key] = each;
  } else if (name === "style") {
    // Through the object model: the policy forbids style attributes.
    for (const [key, each] of Object.entries(value)) {
      if (key.startsWith("--")) node.style.setProperty(key, each);
      else node.style[key] = each;
    }
  } else if (typeof value === "function") {
    node.addEventListener(name.replace(/^on/, ""), value);
  } else if (PROPERTIES.has(name) && name in node) {
    node[name] = value;
  } else if (name.startsWith("aria-")) {
    // Here, "false" says something.
    node.setAttribute(name, String(value));
  } else if (value !== false) {
    node.setAttribute(name === "className" ? "class" : name, value === true ? "" : String(value));
  }
}

function append(node, children) {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    if (Array.isArray(child)) append(node, child);
    else node.append(child instanceof Node ? child : String(child));
  }
}

/** Puts other children in the place of all that were there. */
export function replace(parent, ...children) {
  const fresh = document.createDocumentFragment();
  append(fresh, children);
  parent.replaceChildren(fresh);
  return parent;
}

/** Writes text where it differs: an unchanged node costs no layout. */
export function text(node, value) {
  const said = String(value);
  if (node.textContent !== said) node.textContent = said;
  return node;
}

/** Writes an attribute where it differs; null takes it away. */
export function attribute(node, name, value) {
  if (value === null || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, String(value));
}

const KEYS = new WeakMap();

/** Makes the children of a node those of a list, in its order. What has the same key keeps its node, focus and state. */
export function keyed(parent, items, keyOf, make, update) {
  let known = KEYS.get(parent);
  if (!known) {
    known = new Map();
    KEYS.set(parent, known);
    parent.replaceChildren();
  }
  const fresh = new Map();
  for (const item of items) {
    const key = keyOf(item);
    if (fresh.has(key)) continue;
    const node = known.get(key) ?? make(item);
    update?.(node, item);
    fresh.set(key, node);
  }
  for (const [key, node] of known) if (!fresh.has(key)) node.remove();
  let place = parent.firstChild;
  for (const node of fresh.values()) {
    if (node === place) place = place.nextSibling;
    else parent.insertBefore(node, place);
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
  KEYS.set(parent, fresh);
  return parent;
}
