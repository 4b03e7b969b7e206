// Says truthfully whether the page is live: htmx polls, and may find nobody.
(() => {
  const show = (isLive) => {
    const dot = document.getElementById("live-dot");
    if (!dot) return;
    dot.dataset.state = isLive ? "live" : "stale";
    dot.textContent = isLive ? "live" : "not live: the cloud does not answer";
  };
  const select = (element) => {
    const range = document.createRange();
    range.selectNodeContents(element);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
  };
  document.addEventListener("htmx:after:request", (event) => {
    const code = event.detail?.ctx?.response?.status;
    show(code >= 200 && code < 300);
  });
  document.addEventListener("htmx:error", () => show(false));
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const source = document.getElementById(button.dataset.copy);
    select(source);
    // Browsers lend the clipboard to https and localhost only.
    if (!navigator.clipboard) return;
    await navigator.clipboard.writeText(source.textContent.trim());
    button.textContent = "Copied";
  });
})();
