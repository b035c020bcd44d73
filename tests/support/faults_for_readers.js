// What keeps a screen reader from telling what there is.
() => {
  const found = [], shown = (element) => element.checkVisibility({ visibilityProperty: true });
  const name = (element) => element.getAttribute("aria-label")
    || (element.getAttribute("aria-labelledby") || "").split(" ").map((id) => document.getElementById(id)?.textContent.trim()).join(" ").trim()
    || [...(element.labels || [])].map((label) => label.textContent.trim()).join(" ")
    || (["BUTTON", "A", "SUMMARY", "FIELDSET"].includes(element.tagName) ? (element.querySelector("legend") || element).textContent.trim() : "");
  for (const element of document.querySelectorAll("button, a[href], input:not([type=hidden]), summary, nav, main, section, [role=region], [role=group], [role=img], progress, fieldset"))
    if (shown(element) && !name(element)) found.push(`no name: ${element.outerHTML.slice(0, 80)}`);
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  for (const id of new Set(ids.filter((id, n) => ids.indexOf(id) !== n))) found.push(`twice: ${id}`);
  let before = 0;
  for (const heading of document.querySelectorAll("h1, h2, h3, h4")) {
    if (!shown(heading)) continue;
    const level = Number(heading.tagName[1]);
    if (level > before + 1) found.push(`heading ${level} after ${before}: ${heading.textContent}`);
    before = level;
  }
  for (const [what, count] of [["main", 1], ["header", 1], ["nav", 1], ["h1", 1]])
    if (document.querySelectorAll(what).length !== count) found.push(`not ${count}: ${what}`);
  for (const svg of document.querySelectorAll("svg")) if (!svg.hasAttribute("aria-hidden") && !svg.hasAttribute("aria-label")) found.push("an svg without a name");
  for (const cell of document.querySelectorAll("thead th")) if (cell.scope !== "col") found.push("a heading of no column");
  if (document.documentElement.lang !== "en") found.push("no language");
  return found;
}
