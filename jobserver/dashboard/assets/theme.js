// Light or dark, before the first paint: a classic script, since modules come after it.
(function () {
  var KEY = "jobserver-theme";
  function stored() {
    try {
      return localStorage.getItem(KEY);
    } catch (error) {
      return null;
    }
  }
  function apply(theme) {
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
  }
  apply(stored());
  window.jobserverTheme = {
    get: function () {
      return document.documentElement.dataset.theme || "system";
    },
    set: function (theme) {
      apply(theme);
      try {
        if (theme === "system") localStorage.removeItem(KEY);
        else localStorage.setItem(KEY, theme);
      } catch (error) {
        // Private windows may refuse; the choice then lasts as long as the page.
      }
    },
  };
  window.addEventListener("storage", function (event) {
    if (event.key === KEY) apply(event.newValue);
  });
})();
