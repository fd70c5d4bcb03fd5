// Login by API key: sent once, held by the browser in a cookie that scripts cannot read.

import { h, replace } from "./dom.js";
import { button, pageHead } from "./parts.js";
import { navigate } from "./router.js";
import { session, signIn } from "./session.js";

export const page = {
  title: "Sign in",

  mount(root, { query }) {
    const next = query.get("next") ?? "#/";
    // Only a place of this page.
    const target = next.startsWith("#/") && !next.startsWith("#/login") ? next : "#/";
    const { open, signed_in: signedIn } = session();
    if (open || signedIn) {
      navigate(target, { replace: true });
      return null;
    }
    const key = h("input", { id: "key", name: "key", type: "password", autocomplete: "current-password", required: true, spellcheck: "false", autocapitalize: "off", "aria-describedby": "key-hint key-error" });
    const wrong = h("p", { class: "error", id: "key-error", role: "alert" });
    const go = button("Sign in", { kind: "primary", type: "submit" });
    const form = h("form", { class: "card login", onsubmit: submit },
      pageHead("Sign in"),
      h("p", { class: "muted" }, "This server asks for an API key. What you may do here is what the key may do."),
      h("div", { class: "field" }, h("label", { for: "key" }, "API key"), key, wrong),
      go,
      h("p", { class: "muted small", id: "key-hint" }, "An admin makes one by ", h("code", null, "jobserver keys create NAME --scope read"), "."));
    replace(root, form);
    key.focus();

    async function submit(event) {
      event.preventDefault();
      const entered = key.value.trim();
      if (!entered) return;
      go.disabled = true;
      replace(wrong);
      try {
        await signIn(entered);
        navigate(target, { replace: true });
      } catch (error) {
        if (error.name !== "Problem") throw error;
        replace(wrong, error.status === 401 ? "This key is not known, was revoked or has expired." : (error.detail ?? error.title));
        key.setAttribute("aria-invalid", "true");
        key.select();
      } finally {
        go.disabled = false;
      }
    }
    return null;
  },
};
