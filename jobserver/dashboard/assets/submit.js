// Submit a job: a form made from the schema of its type, or JSON, and the options of the job.

import { get, parse, post, stringify } from "./api.js";
import { report, toast } from "./dialog.js";
import { attribute, h, replace, text } from "./dom.js";
import { bytes, shortId } from "./format.js";
import { exactJob, same } from "./exact.js";
import { card, emptyState, pageHead, problemNote, skeleton } from "./parts.js";
import { href, link, navigate, setQuery } from "./router.js";
import { hasForm, OMITTED, schemaForm, segments } from "./schema_form.js";
import { can, session } from "./session.js";

// More of them are found by typing.
const MOST_CHIPS = 12;

export const page = {
  title: "Submit a job",
  async mount(root, { query, signal }) {
    this.root = root;
    await this.begin(query, signal);
    return null;
  },
  // The address follows the form; where it goes elsewhere by itself (a link, the back button), the form begins anew.
  async update({ query, signal }) {
    if (!this.form.isAt(query)) await this.begin(query, signal);
  },
  async begin(query, signal) {
    this.form?.leave();
    this.form = new SubmitForm(this.root, signal);
    await this.form.begin(query);
  },
};

class SubmitForm {
  constructor(root, signal) {
    this.root = root;
    this.signal = signal;
    this.types = new Map();
    this.form = null;
    this.sent = null;
    this.left = false;
    replace(root, pageHead("Submit a job"), card(null, skeleton(6)));
  }

  leave() {
    this.left = true;
  }

  isAt(query) {
    return (query.get("from") ?? "") === this.from && (query.get("type") ?? "") === this.typeSaid;
  }

  // Into the address.
  sayType(name) {
    this.typeSaid = name;
    setQuery({ type: name }, { replace: true });
  }

  async begin(query) {
    this.from = query.get("from") ?? "";
    this.typeSaid = query.get("type") ?? "";
    if (!can("submit")) {
      replace(this.root, pageHead("Submit a job"), h("div", { class: "card" }, emptyState("This key may only read", "Submitting takes a key of the scope submit or admin.")));
      return;
    }
    const options = { signal: this.signal };
    const [types, from] = await Promise.all([get("/types", null, options), this.original(query.get("from"), options)]);
    if (this.left) return;
    this.types = new Map(types.items.map((type) => [type.type, type]));
    this.build(from);
    const type = query.get("type") ?? from?.type ?? "";
    this.type.value = type;
    if (from && from.type === type) this.prefill(from);
    else this.showType();
    if (!type) this.type.focus();
  }

  async original(id, options) {
    if (!id) return null;
    try {
      return await exactJob(id, options);
    } catch (error) {
      if (error.name !== "Problem") throw error;
      toast(`Job ${id} cannot be copied: ${error.detail ?? error.title}`, "bad");
      return null;
    }
  }

  build(from) {
    const text_ = (props = {}) => h("input", { type: "text", autocomplete: "off", spellcheck: "false", ...props });
    this.type = text_({ id: "job-type", list: "submit-types", required: true, "aria-describedby": "job-type-note job-type-error", placeholder: "for example email.send" });
    this.type.addEventListener("input", () => this.showType());
    this.type.addEventListener("change", () => this.sayType(this.type.value.trim()));
    this.typeError = h("p", { class: "error", id: "job-type-error", role: "alert" });
    this.typeNote = h("p", { class: "hint", id: "job-type-note" });
    this.options = {
      queue: option("queue", "Queue", text_({ list: "submit-queues" })),
      priority: option("priority", "Priority", h("select", null, h("option", { value: "" }, "(default)"), ["high", "normal", "low"].map((name) => h("option", { value: name }, name)))),
      delay: option("delay", "Delay", text_({ inputmode: "decimal", placeholder: "now" }), { hint: "Seconds to wait before the first run. Not together with a time.", read: numeric }),
      run_at: option("run_at", "Not before", h("input", { type: "datetime-local", step: 1 }), { read: moment }),
      max_retries: option("max_retries", "Retries", text_({ inputmode: "numeric" }), { hint: "0 to 100", read: numeric }),
      timeout: option("timeout", "Time limit", text_({ inputmode: "decimal" }), { hint: "Seconds that one attempt may take", read: numeric }),
      expires_at: option("expires_at", "Expires", h("input", { type: "datetime-local", step: 1 }), { hint: "Not started by then, it fails.", read: moment }),
      tags: option("tags", "Tags", text_({ placeholder: "billing, urgent" }), { hint: "Separated by commas", read: (value) => value.split(",").map((tag) => tag.trim()).filter(Boolean) }),
      idempotency_key: option("idempotency_key", "Idempotency key", text_(), { hint: "A second submit with it answers with the first job." }),
      callback_url: option("callback_url", "Callback", text_({ type: "url", placeholder: "https://…" }), { hint: "Told by a signed POST when the job has ended." }),
    };
    this.place = h("div", { class: "payload-form" });
    this.json = h("textarea", { rows: 10, class: "payload-json", spellcheck: "false", "aria-label": "Payload as JSON", "aria-describedby": "payload-error" });
    this.json.addEventListener("input", () => this.payloadError(""));
    this.jsonPlace = h("div", { hidden: true }, this.json);
    this.error = h("p", { class: "error", id: "payload-error", role: "alert" });
    this.tabs = {
      form: h("button", { type: "button", class: "chip", "aria-pressed": "true", onclick: () => this.toForm() }, "Form"),
      json: h("button", { type: "button", class: "chip", "aria-pressed": "false", onclick: () => this.toJson() }, "JSON"),
    };
    this.whole = h("div", { role: "alert", hidden: true });
    this.send = h("button", { type: "submit", class: "button primary" }, "Submit the job");
    this.queues = h("datalist", { id: "submit-queues" });
    const names = [...this.types.keys()].sort();
    replace(
      this.root,
      pageHead("Submit a job", from ? h("span", { class: "muted" }, "with changes, from ", link(href(`/jobs/${from.id}`), { class: "mono" }, shortId(from.id))) : null),
      h(
        "form",
        { class: "submit-form", novalidate: true, onsubmit: (event) => { event.preventDefault(); this.submit(); } },
        h("datalist", { id: "submit-types" }, names.map((value) => h("option", { value }))),
        this.queues,
        h(
          "div",
          { class: "submit-grid" },
          h(
            "div",
            { class: "stack" },
            card(
              "Type",
              h("div", { class: "field" }, h("label", { class: "sr", for: "job-type" }, "Type"), this.type, this.typeNote, this.typeError),
              h("div", { class: "chips known-types" }, names.slice(0, MOST_CHIPS).map((name) => this.typeChip(name))),
            ),
            card("Payload", { actions: h("div", { class: "chips", role: "group", "aria-label": "How to write the payload" }, this.tabs.form, this.tabs.json) }, this.place, this.jsonPlace, this.error),
          ),
          card("Options", h("p", { class: "small muted" }, "What is left empty comes from the type."), h("div", { class: "options" }, Object.values(this.options).map((one) => one.node))),
        ),
        this.whole,
        h("div", { class: "row submit-row" }, this.send, h("span", { class: "muted small" }, "Ctrl + Enter")),
      ),
    );
    this.root.querySelector("form").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        this.submit();
      }
    });
    this.suggestQueues();
  }

  typeChip(name) {
    const choose = () => {
      this.type.value = name;
      this.showType();
      this.sayType(name);
    };
    return h("button", { type: "button", class: "chip", dataset: { type: name }, onclick: choose }, name);
  }

  async suggestQueues() {
    try {
      const { items } = await get("/queues", null, { signal: this.signal });
      replace(this.queues, items.map(({ name }) => h("option", { value: name })));
    } catch {
      // It works without suggestions.
    }
  }

  prefill(job) {
    this.showType();
    this.write(job.payload);
    const values = {
      queue: job.queue,
      priority: job.priority,
      max_retries: job.max_retries,
      timeout: job.timeout,
      tags: job.tags.join(", "),
      callback_url: job.callback_url ?? "",
    };
    for (const [name, value] of Object.entries(values)) this.options[name].control.value = String(value);
  }

  // The payload

  showType() {
    const name = this.type.value.trim();
    const known = this.types.get(name);
    this.typeError.textContent = "";
    for (const chip of this.root.querySelectorAll(".known-types .chip")) attribute(chip, "aria-pressed", String(chip.dataset.type === name));
    text(this.typeNote, known ? (known.schema.description ?? "") : name ? "No worker that lives has said what this type takes." : "");
    const defaults = known ? { queue: known.queue, priority: known.priority, max_retries: known.max_retries, timeout: known.timeout } : {};
    for (const option of ["queue", "max_retries", "timeout"]) this.options[option].control.placeholder = defaults[option] === undefined ? "" : String(defaults[option]);
    text(this.options.priority.control.options[0], defaults.priority ? `(${defaults.priority})` : "(default)");
    if (this.shownType === name) return;
    this.shownType = name;
    const written = this.mode === "json" ? this.json.value : null;
    this.form = known && hasForm(known.schema) ? schemaForm(known.schema) : null;
    replace(this.place, this.form?.node ?? null);
    this.tabs.form.disabled = !this.form;
    this.show(this.form && !written?.trim() ? "form" : "json");
    this.payloadError("");
  }

  show(mode) {
    this.mode = mode;
    this.place.hidden = mode !== "form";
    this.jsonPlace.hidden = mode !== "json";
    attribute(this.tabs.form, "aria-pressed", String(mode === "form"));
    attribute(this.tabs.json, "aria-pressed", String(mode === "json"));
  }

  // Puts a payload into the form, or into the text where the form cannot show all of it.
  write(value) {
    this.json.value = value === null ? "" : stringify(value, 2);
    if (this.form && this.fits(value)) this.show("form");
    else this.show("json");
  }

  fits(value) {
    const { schema } = this.types.get(this.shownType);
    // A fresh one: what an earlier value has left must not mix with this one.
    const form = schemaForm(schema);
    const problems = [];
    const whole = form.write(value);
    const read = form.read(problems);
    if (!whole || problems.length || !(same(read, value) || covers(read, value))) return false;
    this.form = form;
    replace(this.place, form.node);
    return true;
  }

  toJson() {
    if (this.mode === "json") return;
    const value = this.form.read([]);
    this.json.value = value === OMITTED ? "" : stringify(value, 2);
    this.show("json");
    this.json.focus();
  }

  toForm() {
    if (this.mode === "form" || !this.form) return;
    const said = this.json.value.trim();
    try {
      if (said === "" || said === "null") this.form = null;
      const value = said === "" ? null : parse(said);
      if (value === null) {
        this.form = schemaForm(this.types.get(this.shownType).schema);
        replace(this.place, this.form.node);
      } else if (!this.fits(value)) {
        this.payloadError("The form cannot show all of this; go on in JSON.");
        return;
      }
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
      this.payloadError(`Not JSON: ${error.message}`);
      return;
    }
    this.payloadError("");
    this.show("form");
  }

  payloadError(said) {
    text(this.error, said);
    attribute(this.json, "aria-invalid", said ? "true" : null);
  }

  payload(problems) {
    if (this.mode === "form") {
      const value = this.form.read(problems);
      return value === OMITTED ? null : value;
    }
    const said = this.json.value.trim();
    if (said === "") return null;
    try {
      return parse(said);
    } catch (error) {
      problems.push({ field: { fail: (message) => this.payloadError(message), focus: () => this.json.focus() }, message: `Not JSON: ${error.message}` });
      return null;
    }
  }

  // The submit

  async submit() {
    if (this.send.disabled) return;
    this.clear();
    const problems = [];
    const body = { type: this.type.value.trim(), payload: this.payload(problems) };
    if (!body.type) problems.unshift({ field: this.typeField(), message: "Required" });
    for (const [name, one] of Object.entries(this.options)) {
      const value = one.read(problems);
      if (value !== OMITTED) body[name] = value;
    }
    const size = new TextEncoder().encode(stringify(body.payload)).length;
    const most = session().max_payload_bytes;
    if (size > most) problems.push({ field: this.payloadField(), message: `The payload has ${bytes(size)}, and may have ${bytes(most)}` });
    if (problems.length) {
      this.tell(problems);
      return;
    }
    this.send.disabled = true;
    attribute(this.send, "aria-busy", "true");
    try {
      // Not ended with the page: what was sent is sent.
      const job = await post("/jobs", body, { headers: this.keyOf(body) });
      this.sent = null;
      toast(`Job ${shortId(job.id)} submitted`, "good");
      if (!this.signal.aborted && !this.left) navigate(href(`/jobs/${job.id}`));
    } catch (error) {
      if (error.name !== "Problem") throw error;
      if (this.signal.aborted || this.left) report(error);
      else this.refused(error);
    } finally {
      this.send.disabled = false;
      attribute(this.send, "aria-busy", null);
    }
  }

  // The same body has the same key until it was answered: sent again after an answer was lost, it is one job still.
  keyOf(body) {
    if (body.idempotency_key) return {};
    const said = stringify(body);
    if (this.sent?.said !== said) this.sent = { said, key: randomKey() };
    return { "idempotency-key": this.sent.key };
  }

  refused(error) {
    const placed = (error.errors ?? []).map(({ path, message }) => ({ field: this.fieldAt(path), message })).filter(({ field }) => field);
    if (placed.length) this.tell(placed);
    if (placed.length < Math.max(1, error.errors?.length ?? 0)) {
      this.whole.hidden = false;
      replace(this.whole, problemNote(error));
      this.whole.scrollIntoView({ block: "nearest" });
    }
  }

  fieldAt(path) {
    const [first, ...rest] = segments(path);
    if (first === "type") return this.typeField();
    if (first === "payload") return this.mode === "form" ? this.form.at(rest) : this.payloadField(rest.length ? `${path}: ` : "");
    return this.options[first] ?? null;
  }

  typeField() {
    return { fail: (message) => { this.typeError.textContent = message; attribute(this.type, "aria-invalid", "true"); }, focus: () => this.type.focus() };
  }

  payloadField(prefix = "") {
    return { fail: (message) => this.payloadError(prefix + message), focus: () => (this.mode === "json" ? this.json.focus() : this.error.scrollIntoView({ block: "center" })) };
  }

  tell(problems) {
    for (const { field, message } of problems) field.fail(message);
    problems[0].field.focus?.();
  }

  clear() {
    this.whole.hidden = true;
    this.typeError.textContent = "";
    attribute(this.type, "aria-invalid", null);
    this.payloadError("");
    this.form?.clear();
    for (const one of Object.values(this.options)) one.clear();
  }
}

// What the form leaves to defaults may be said in the original.
function covers(read, value) {
  return value !== null && typeof value === "object" && !Array.isArray(value) && read !== OMITTED && Object.keys(read).every((key) => key in value && same(read[key], value[key]));
}

function option(name, label, control, { hint = null, read = (value) => value } = {}) {
  control.id = `option-${name}`;
  const error = h("p", { class: "error", id: `${control.id}-error`, role: "alert" });
  attribute(control, "aria-describedby", [hint ? `${control.id}-hint` : null, `${control.id}-error`].filter(Boolean).join(" "));
  const field = {
    control,
    node: h("div", { class: "field" }, h("label", { for: control.id }, label), control, hint ? h("p", { class: "hint", id: `${control.id}-hint` }, hint) : null, error),
    read: (problems) => {
      const value = control.value.trim();
      if (value === "") return OMITTED;
      const found = read(value);
      if (found === undefined) problems.push({ field, message: "Expected a number" });
      return found ?? OMITTED;
    },
    fail: (message) => {
      text(error, message);
      attribute(control, "aria-invalid", "true");
    },
    clear: () => {
      text(error, "");
      attribute(control, "aria-invalid", null);
    },
    focus: () => control.focus(),
  };
  control.addEventListener("input", field.clear);
  return field;
}

function randomKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function numeric(value) {
  const found = Number(value);
  return Number.isFinite(found) ? found : undefined;
}

function moment(value) {
  return new Date(value).toISOString();
}
