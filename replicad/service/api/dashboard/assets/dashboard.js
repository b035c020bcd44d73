// The page asks for pieces of HTML when something has happened (/events), and every ten seconds in any case.
"use strict";
const replicad = (() => {
  const KEY = "replicad.key"; // of this tab and this origin alone; see docs/decisions/0006
  const POLL_MS = 10_000, BUSY_POLL_MS = 1_500, LEAST_MS = 1_000, HISTORY_POLL_MS = 60_000;
  const PIECES = ["now", "charts", "points", "cycles"]; // of the chosen machine
  const $ = (id) => document.getElementById(id);
  let offsetMs = 0; // what the server's clock is ahead of ours

  // ---- words -------------------------------------------------------------------------------------------------------
  const UNITS = [[86_400, "day", "days"], [3_600, "h", "h"], [60, "min", "min"], [1, "s", "s"]];
  function duration(seconds) {
    const whole = Math.max(0, Math.round(seconds));
    for (let n = 0; n < UNITS.length; n++) {
      const [length, one, more] = UNITS[n];
      if (whole < length) continue;
      const count = Math.floor(whole / length), words = [`${count} ${count === 1 ? one : more}`];
      const smaller = UNITS[n + 1], rest = smaller ? Math.floor((whole % length) / smaller[0]) : 0;
      if (rest) words.push(`${rest} ${rest === 1 ? smaller[1] : smaller[2]}`);
      return words.join(" ");
    }
    return "0 s";
  }
  function bytes(count) {
    let value = count, power = 0;
    while (value >= 999.5 && power < 5) { value /= 1024; power++; }
    return `${(value < 99.95 ? value.toFixed(1) : value.toFixed(0)).replace(/\.0$/, "")} ${["B", "KiB", "MiB", "GiB", "TiB", "PiB"][power]}`;
  }
  const two = (n) => String(n).padStart(2, "0");
  const day = (d) => `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())}`;
  const clock = (d) => `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`;
  const localTime = (ms) => { const d = new Date(ms); return `${day(d)} ${clock(d)}`; };
  const utcTime = (ms) => `${new Date(ms).toISOString().slice(0, 19).replace("T", " ")} UTC`;
  function chartTime(seconds, before, span) {
    const d = new Date(seconds * 1000), newDay = before === null || day(new Date(before * 1000)) !== day(d);
    const time = `${two(d.getHours())}:${two(d.getMinutes())}`;
    if (span > 4 * 86_400) return day(d).slice(5);
    return newDay && span > 43_200 ? `${time}\n${day(d).slice(5)}` : time;
  }
  const serverNow = () => Date.now() + offsetMs;

  // Ages by the second only while they are seconds: nobody needs to see 12 min 7 s tick.
  const coarse = (seconds) => (seconds < 90 ? duration(seconds) : duration(Math.floor(seconds / 60) * 60));
  function timeText(element, now) {
    const ms = Date.parse(element.dateTime), seconds = (now - ms) / 1000;
    if (element.dataset.as === "age") return seconds < 1.5 ? "just now" : `${coarse(seconds)} ago`;
    if (element.dataset.as === "until") return seconds >= -0.5 ? "now" : `in ${coarse(-seconds)}`;
    return localTime(ms);
  }
  function tick(root = document) {
    const now = serverNow();
    for (const element of root.querySelectorAll("time[data-as]")) {
      const text = timeText(element, now);
      if (element.textContent !== text) element.textContent = text;
      if (!element.dataset.told) {
        const ms = Date.parse(element.dateTime);
        element.title = element.dataset.as === "time" ? utcTime(ms) : `${localTime(ms)} here, ${utcTime(ms)}`;
        element.dataset.told = "yes";
      }
    }
    for (const lag of root.querySelectorAll(".gauge-lag")) {
      const share = Math.max(0, (now - Date.parse(lag.dataset.since)) / 1000 / Number(lag.dataset.rpo));
      lag.setAttribute("width", `${Math.min(100, 100 * share / 2).toFixed(1)}%`); // the middle is the objective
      lag.classList.toggle("late", share > 1);
      lag.classList.toggle("very-late", share > 4);
    }
  }

  // ---- what is said ------------------------------------------------------------------------------------------------
  let sayTimer = 0;
  function say(text, isProblem = false) {
    const said = $("said");
    said.className = isProblem ? "said shown is-problem" : "said shown";
    said.replaceChildren(text);
    clearTimeout(sayTimer);
    sayTimer = setTimeout(() => { said.className = "said"; said.replaceChildren(); }, isProblem ? 20_000 : 6_000);
  }
  const changes = [];
  let changesTimer = 0;
  function announce(text) { // several at once are told as one
    changes.push(text);
    clearTimeout(changesTimer);
    changesTimer = setTimeout(() => {
      const few = changes.slice(0, 3).join(" ");
      $("changes").textContent = changes.length > 3 ? `${few} And ${changes.length - 3} more changes.` : few;
      changes.length = 0;
    }, 250);
  }
  function tellChange(before, after) {
    const { vm, move, health, state, reason } = after.dataset;
    if (move !== undefined && before.dataset.state !== state) announce(`The move of ${move}: ${state}.`);
    if (vm === undefined || (before.dataset.health === health && before.dataset.state === state)) return;
    announce(`${vm} is now ${health}, ${state.replaceAll("-", " ")}${reason ? `: ${reason}` : ""}.`);
  }

  // ---- swapping without losing the focus ---------------------------------------------------------------------------
  // Children are known by their ids; one whose mark is still the same stays as it is, and so does what is in it.
  function merge(target, fragment, added) {
    const wanted = new Map([...fragment.children].map((child) => [child.id, child])), kept = new Map();
    // First what goes or says something else is taken out: of what stays nothing has to move then, and so lose the focus.
    for (const old of [...target.children]) {
      const fresh = wanted.get(old.id);
      const isList = fresh && "keyed" in old.dataset && "keyed" in fresh.dataset;
      if (isList) merge(old, fresh, added);
      if (isList || (fresh && old.dataset.mark !== undefined && old.dataset.mark === fresh.dataset.mark)) { kept.set(old.id, old); continue; }
      if (fresh) { tellChange(old, fresh); keepOpen(old, fresh); }
      old.remove();
    }
    let place = target.firstElementChild;
    for (const fresh of wanted.values()) {
      const old = kept.get(fresh.id);
      if (!old) added.push(fresh);
      if (old && old === place) place = place.nextElementSibling;
      else target.insertBefore(old ?? fresh, place);
    }
  }
  function keepOpen(old, fresh) {
    for (const details of old.querySelectorAll("details[open][id]")) fresh.querySelector(`#${details.id}`)?.setAttribute("open", "");
  }
  htmx.defineExtension("keyed", {
    isInlineSwap: () => false,
    handleSwap(style, target, fragment) {
      if (style !== "keyed") return false;
      const added = [];
      merge(target, fragment, added); // what had the focus and was replaced, htmx gives it again by its id
      return added;
    },
  });

  // ---- signing in --------------------------------------------------------------------------------------------------
  const key = () => sessionStorage.getItem(KEY);
  const withKey = (headers = {}) => (key() ? { ...headers, Authorization: `Bearer ${key()}` } : headers);
  async function signIn(headers, body) {
    const answer = await fetch("/dashboard/session", {
      method: "POST", headers: body ? { ...headers, "Content-Type": "application/json" } : headers, body: body && JSON.stringify(body),
    });
    const told = await answer.json();
    if (!answer.ok) throw new Error(told.error.text);
    sessionStorage.setItem(KEY, told.key);
  }
  function showSignIn(problem = "") {
    sessionStorage.removeItem(KEY);
    if ($("sign-in").hidden) { $("sign-in").hidden = false; $("panes").hidden = true; $("sign-out").hidden = true; $("token").focus(); }
    link("signed out", "");
    if (problem) $("sign-in-problem").textContent = problem;
    stopListening();
  }
  async function signOut() {
    await fetch("/dashboard/session", { method: "DELETE", headers: withKey() }).catch(() => null); // it ends by itself
    for (const id of ["machines", "moves", ...PIECES]) $(id).replaceChildren();
    showSignIn();
  }

  // ---- which machine -----------------------------------------------------------------------------------------------
  let chosen = null;
  function fromHash() {
    const match = /^#vm=(.+)$/.exec(location.hash);
    try { return match ? decodeURIComponent(match[1]) : null; } catch { return null; }
  }
  function choose(vm, byHand) {
    if (vm === chosen) return;
    chosen = vm;
    document.body.classList.toggle("has-chosen", vm !== null && byHand);
    PIECES.forEach(anew);
    $("chosen").hidden = vm === null;
    $("none-chosen").hidden = vm !== null;
    document.title = vm === null ? "replicad" : `${vm} – replicad`;
    markChosen();
    if (vm !== null) { for (const id of PIECES) htmx.trigger($(id), "look"); }
  }
  function anew(id) { // an answer about another machine, which may take its time, must not be waited for
    const fresh = $(id).cloneNode(false);
    $(id).replaceWith(fresh);
    htmx.process(fresh);
  }
  function markChosen() {
    for (const row of document.querySelectorAll("#rows > li")) {
      const link = row.firstElementChild, isIt = row.dataset.vm === chosen;
      if (isIt !== link.hasAttribute("aria-current")) isIt ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current");
    }
  }
  function hashChanged() {
    const vm = fromHash();
    if (vm !== null) { choose(vm, true); if (isNarrow()) { scrollTo(0, 0); $("main").focus({ preventScroll: true }); } }
    else { const before = chosen; choose(null, false); if (before !== null) rowOf(before)?.firstElementChild.focus(); chooseFirst(); }
  }
  const isNarrow = () => matchMedia("(max-width: 62rem)").matches;
  const rowOf = (vm) => [...document.querySelectorAll("#rows > li")].find((row) => row.dataset.vm === vm);
  function chooseFirst() { // where there is room for both, the worst one is shown until somebody chooses
    const first = document.querySelector("#rows > li");
    if (chosen === null && first && !isNarrow()) choose(first.dataset.vm, false);
  }

  // ---- looking again -----------------------------------------------------------------------------------------------
  let lookTimer = 0, lookedMs = 0, historyMs = 0;
  function look() {
    clearTimeout(lookTimer);
    lookTimer = setTimeout(look, document.querySelector("progress") ? BUSY_POLL_MS : POLL_MS);
    if (document.hidden || !$("sign-in").hidden) return;
    lookedMs = Date.now();
    htmx.trigger($("machines"), "look");
    htmx.trigger($("moves"), "look");
    if (chosen === null) return;
    htmx.trigger($("now"), "look");
    if (lookedMs - historyMs > HISTORY_POLL_MS) lookAtHistory();
  }
  function lookAtHistory() {
    historyMs = Date.now();
    for (const id of PIECES.slice(1)) htmx.trigger($(id), "look");
  }
  function lookSoon() {
    clearTimeout(lookTimer);
    lookTimer = setTimeout(look, Math.max(60, LEAST_MS - (Date.now() - lookedMs)));
  }

  // ---- hearing what happens ----------------------------------------------------------------------------------------
  let listening = null, retries = 0, retryTimer = 0;
  function link(text, kind) { // it is read aloud: only when it changes
    if ($("link-text").textContent !== text) $("link-text").textContent = text;
    $("link").dataset.kind = kind;
  }
  function happened(piece) {
    // `.` stops at U+2028, which may be in a name, and is no end of a line here.
    const name = /^event: ([^\n]*)$/m.exec(piece)?.[1];
    if (!name) return;
    const data = JSON.parse(/^data: ([^\n]*)/m.exec(piece)?.[1] ?? "null");
    lookSoon();
    if (name === "trouble") say(data.vm ? `${data.vm}: ${data.text}` : data.text, true);
    if (name === "ended" && data.vm === chosen) lookAtHistory();
  }
  async function listen() {
    stopListening();
    const mine = (listening = new AbortController());
    try {
      const answer = await fetch("/events", { headers: withKey(), signal: mine.signal });
      if (answer.status === 401) return showSignIn();
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      link("live", "live");
      retries = 0;
      look();
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let text = ""; ;) {
        const { value, done } = await reader.read();
        if (done) break;
        const pieces = (text + value).split("\n\n");
        text = pieces.pop();
        pieces.forEach(happened);
      }
    } catch (error) {
      if (mine.signal.aborted) return;
    }
    if (listening !== mine) return;
    link("connection lost; trying again", "lost");
    retryTimer = setTimeout(listen, Math.min(15_000, 500 * 2 ** retries++));
  }
  function stopListening() {
    clearTimeout(retryTimer);
    listening?.abort();
    listening = null;
  }
  // Browsers have six connections to a server for all tabs: those that nobody sees give theirs back.
  document.addEventListener("visibilitychange", () => {
    if (!$("sign-in").hidden) return;
    if (document.hidden) stopListening(); else listen();
  });
  addEventListener("pagehide", stopListening);
  addEventListener("pageshow", (event) => { if (event.persisted && $("sign-in").hidden) listen(); });

  // ---- htmx --------------------------------------------------------------------------------------------------------
  document.addEventListener("htmx:configRequest", ({ detail }) => {
    detail.headers = withKey(detail.headers);
    if (PIECES.includes(detail.elt.id)) {
      if (chosen === null) detail.elt.replaceChildren();
      detail.parameters.set("vm", chosen ?? "");
    }
  });
  document.addEventListener("htmx:beforeSwap", (event) => {
    // Orders answer with JSON, whose texts are not escaped for HTML: htmx would look for markup in it even if it swaps nothing.
    if (!/^text\/html\b/.test(event.detail.xhr.getResponseHeader("Content-Type") ?? "")) { event.detail.shouldSwap = false; return; }
    const asked = event.detail.requestConfig.parameters.vm;
    // The answer about a machine that is not the chosen one any more.
    if (asked !== undefined && asked !== chosen) event.detail.shouldSwap = false;
  });
  document.addEventListener("htmx:afterSwap", ({ detail }) => {
    const id = detail.target.id;
    if (id === "machines") {
      const summary = $("summary");
      for (const [name, count] of Object.entries(JSON.parse(summary.dataset.counts))) document.querySelector(`[data-count="${name}"]`).textContent = count;
      markChosen();
      chooseFirst();
    }
    tick(detail.target);
  });
  htmx.onLoad((element) => {
    if (element.id === "summary") offsetMs = Date.parse(element.dataset.now) - Date.now();
    if (element.id === "h-charts") replicadCharts.show(element);
    tick(element);
  });
  function sentence(xhr) {
    try { return JSON.parse(xhr.responseText).error.text; } catch { return `the daemon answered with status ${xhr.status}`; }
  }
  document.addEventListener("htmx:afterRequest", ({ detail }) => {
    const { elt, xhr, successful } = detail;
    if (xhr.status === 401) return showSignIn();
    if (elt.dataset.said !== undefined && xhr.status) { say(successful ? `${elt.dataset.of ?? chosen}: ${elt.dataset.said}` : sentence(xhr), !successful); lookSoon(); }
    else if (elt.dataset.said !== undefined) say("The daemon does not answer: nothing was done.", true);
    else if (xhr.status === 404 && elt.id === "now") { say(sentence(xhr), true); location.hash = ""; }
  });
  document.addEventListener("click", ({ target }) => {
    if (target.id === "show-more") { $("limit").value = Math.min(5_000, Number($("limit").value) + Number(target.dataset.more)); look(); }
    if (target.id === "sign-out") signOut();
  });
  let typing = 0;
  $("filter").addEventListener("input", () => { $("limit").value = 100; clearTimeout(typing); typing = setTimeout(look, 120); });
  $("filter").addEventListener("submit", (event) => { event.preventDefault(); look(); });
  $("spans").addEventListener("change", lookAtHistory);
  $("sign-in-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    $("sign-in-problem").textContent = "";
    try { await signIn({ Authorization: `Bearer ${$("token").value.trim()}` }); begin(); }
    catch (error) { $("sign-in-problem").textContent = error.message; $("token").select(); }
    finally { if (key()) $("token").value = ""; }
  });
  addEventListener("hashchange", () => { if (!/^#code=/.test(location.hash)) hashChanged(); else location.reload(); });

  function begin() {
    $("sign-in").hidden = true;
    $("panes").hidden = false;
    $("sign-out").hidden = key() === null;
    listen();
    hashChanged();
  }
  async function start() {
    setInterval(() => { if (!document.hidden) tick(); }, 1_000);
    setInterval(() => { if (!document.hidden) replicadCharts.again(); }, 15_000);
    const code = /^#code=([\w-]+)$/.exec(location.hash)?.[1];
    if (code) {
      history.replaceState(null, "", location.pathname); // it is good once, and nobody needs to see it
      try { await signIn({}, { code }); } catch (error) { return showSignIn(error.message); }
    }
    const answer = await fetch("/dashboard/session", { headers: withKey() }).catch(() => null);
    if (answer?.ok && !(await answer.json()).signed_in) showSignIn(); else begin();
  }
  document.addEventListener("DOMContentLoaded", start, { once: true });
  return { duration, bytes, localTime, chartTime, serverNow };
})();
