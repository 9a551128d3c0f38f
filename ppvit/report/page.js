"use strict";
document.documentElement.classList.add("scripted");
addEventListener("DOMContentLoaded", () => {
  const { config, specs } = JSON.parse(document.getElementById("specs").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  for (const [name, spec] of Object.entries(specs)) {
    // ast: expressions are interpreted, so that the page may forbid scripts that are made of text
    const options = { actions: false, renderer: "svg", ast: true, config, tooltip: { theme: dark.matches ? "dark" : "light" } };
    vegaEmbed(`#plot-${name}`, spec, options).catch((error) => console.error(name, error));
  }
  const folds = [...document.querySelectorAll("main details")];
  const resize = () => dispatchEvent(new Event("resize"));  // a plot has no width where its section is folded
  folds.forEach((fold) => fold.addEventListener("toggle", resize));
  const unfold = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const fold = target && (target.querySelector(":scope > details") || target.closest("details"));
    if (fold) { fold.open = true; target.scrollIntoView(); }
  };
  addEventListener("hashchange", unfold);
  document.querySelector("nav").addEventListener("click", () => setTimeout(unfold));
  unfold();
  const button = document.getElementById("fold");
  button.hidden = false;
  button.addEventListener("click", () => {
    const open = folds.some((fold) => !fold.open);
    folds.forEach((fold) => { fold.open = open; });
    button.textContent = open ? "Fold all sections" : "Open all sections";
  });
  let before = [];
  addEventListener("beforeprint", () => {
    before = folds.filter((fold) => !fold.open);
    before.forEach((fold) => { fold.open = true; });
  });
  addEventListener("afterprint", () => before.forEach((fold) => { fold.open = false; }));
});
