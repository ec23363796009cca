"use strict";
// What the page can do with scripts on: filter, sort, group, light words up, keep the view in the
// address. It reads what the page shows and writes text only; without it all is there to read.
(() => {
  const all = (selector, root = document) => Array.from(root.querySelectorAll(selector));
  const byId = (id) => document.getElementById(id);
  const list = byId("list");
  const findings = list === null ? [] : all("#list > .finding");
  const rows = new Map(all(".printed tr[data-n]").map((row) => [row.dataset.n, row]));
  const tabs = all(".tabs a");
  const parts = all(".part");
  const empty = { q: "", kind: [], type: [], sort: "", group: "", tab: "findings", open: "" };
  let state = { ...empty };

  // -- the address ------------------------------------------------------------------------------

  const readAddress = () => {
    const text = location.hash.slice(1);
    if (text === "" || text.includes("=")) {
      const given = new URLSearchParams(text);
      const said = (name) => given.get(name) ?? empty[name];
      return {
        q: said("q"), kind: given.getAll("kind"), type: given.getAll("type"), sort: said("sort"),
        group: said("group"), tab: said("tab"), open: said("open"),
      };
    }
    if (parts.some((part) => part.id === text)) return { ...state, tab: text, open: "" };
    return { ...state, tab: "findings", open: text };
  };

  const writeAddress = () => {
    const said = new URLSearchParams();
    for (const [name, value] of Object.entries(state)) {
      if (Array.isArray(value)) value.forEach((one) => said.append(name, one));
      else if (value !== empty[name]) said.set(name, value);
    }
    try {
      history.replaceState(null, "", `#${said}`);
    } catch {
      // A frame of a notebook has no address of its own.
    }
  };

  // -- filter, sort, group ----------------------------------------------------------------------

  const texts = new Map();
  const textOf = (finding) => {
    if (!texts.has(finding)) {
      const said = all("summary, .text, .record > header, .verdict", finding);
      texts.set(finding, said.map((part) => part.textContent).join(" ").toLowerCase());
    }
    return texts.get(finding);
  };

  const isWanted = (finding, words) =>
    (state.kind.length === 0 || state.kind.includes(finding.dataset.kind)) &&
    (state.type.length === 0 || state.type.includes(finding.dataset.type)) &&
    words.every((word) => textOf(finding).includes(word));

  const number = (finding) => Number(finding.dataset.n);
  const compare = (name) => (a, b) =>
    a.dataset[name].localeCompare(b.dataset[name], "en", { numeric: true }) || number(a) - number(b);
  const orders = {
    "": (a, b) => number(a) - number(b),
    strength: (a, b) => b.dataset.order - a.dataset.order || number(a) - number(b),
    type: compare("type"), kind: compare("kind"), record: compare("record"),
  };

  const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
  const headings = {
    record: (name, count) =>
      name ? `${name}: this record leaks ${plural(count, "value")}` : "No record is named",
    person: (name, count) => `${name || "Person not known"}: ${plural(count, "value")}`,
    type: (name, _, count) => `${name || "No type"}: ${plural(count, "finding")}`,
    kind: (name, _, count) => `${name}: ${plural(count, "finding")}`,
  };

  // Several probes may get the same value out.
  const values = (members) => {
    const said = members.map((finding) => {
      const shown = finding.querySelector(".value-shown").textContent;
      return JSON.stringify([finding.dataset.type, finding.dataset.person, shown]);
    });
    return new Set(said).size;
  };

  const grouped = (wanted) => {
    const groups = new Map();
    for (const finding of wanted) {
      const name = finding.dataset[state.group];
      groups.set(name, [...(groups.get(name) ?? []), finding]);
    }
    const counted = [...groups].map(([name, members]) => ({ name, members, said: values(members) }));
    counted.sort(
      (a, b) =>
        (a.name === "") - (b.name === "") || b.said - a.said || b.members.length - a.members.length,
    );
    return counted.map(({ name, members, said }) => {
      const group = document.createElement("section");
      const heading = document.createElement("h2");
      group.className = "group";
      heading.textContent = headings[state.group](name, said, members.length);
      group.append(heading, ...members);
      return group;
    });
  };

  const show = () => {
    const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
    const order = orders[state.sort] ?? orders[""];
    const ordered = [...findings].sort(order);
    const wanted = ordered.filter((finding) => isWanted(finding, words));
    const kept = new Set(wanted);
    for (const finding of findings) {
      finding.hidden = !kept.has(finding);
      const row = rows.get(finding.dataset.n);
      if (row) row.hidden = finding.hidden;
    }
    const rest = ordered.filter((finding) => !kept.has(finding));
    const next = state.group in headings ? [...grouped(wanted), ...rest] : ordered;
    const isThere = next.every((node, at) => list.children[at] === node);
    if (!isThere || next.length !== list.children.length) list.replaceChildren(...next);
    byId("shown").textContent =
      wanted.length === findings.length
        ? plural(findings.length, "finding")
        : `${wanted.length.toLocaleString("en")} of ${plural(findings.length, "finding")}`;
    byId("filter").value = state.q;
    byId("sort").value = state.sort in orders ? state.sort : "";
    byId("group").value = state.group in headings ? state.group : "";
    for (const chip of all("#chips button")) {
      const isOn = state[chip.dataset.name].includes(chip.dataset.value);
      chip.setAttribute("aria-pressed", String(isOn));
    }
    byId("clear").hidden = !(state.q || state.kind.length || state.type.length);
  };

  const showTab = () => {
    if (tabs.length === 0) return;
    const tab = parts.some((part) => part.id === state.tab) ? state.tab : "findings";
    for (const part of parts) part.hidden = part.id !== tab;
    for (const link of tabs) {
      if (link.getAttribute("href") === `#${tab}`) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  };

  const openNamed = (id) => {
    const finding = byId(id)?.closest("details.finding");
    if (!finding) return;
    finding.hidden = false;
    finding.open = true;
    finding.querySelector("summary").focus({ preventScroll: true });
    finding.scrollIntoView({ block: "start" });
  };

  const change = (changes) => {
    state = { ...state, ...changes };
    writeAddress();
    show();
  };

  const fromAddress = () => {
    state = readAddress();
    showTab();
    if (list !== null) show();
    if (state.open) openNamed(state.open);
  };

  const addChips = (name) => {
    const counts = new Map();
    for (const finding of findings) {
      const value = finding.dataset[name];
      if (value) counts.set(value, (counts.get(value) ?? 0) + 1);
    }
    if (counts.size < 2) return;
    const group = document.createElement("span");
    group.className = "chips";
    group.setAttribute("role", "group");
    group.setAttribute("aria-label", name === "kind" ? "Kinds" : "Types of values");
    for (const [value, count] of [...counts].sort((a, b) => b[1] - a[1]).slice(0, 12)) {
      const chip = document.createElement("button");
      const tally = document.createElement("small");
      chip.type = "button";
      chip.dataset.name = name;
      chip.dataset.value = value;
      tally.textContent = count.toLocaleString("en");
      chip.append(`${value} `, tally);
      chip.addEventListener("click", () => {
        const on = state[name];
        const next = on.includes(value) ? on.filter((each) => each !== value) : [...on, value];
        change({ [name]: next });
      });
      group.append(chip);
    }
    byId("chips").append(group);
  };

  // -- words that taught words ------------------------------------------------------------------

  const dim = (finding) => {
    finding.classList.remove("linking");
    for (const word of all(".lit, .picked", finding)) {
      word.classList.remove("lit", "lit1", "lit2", "lit3", "picked");
      if (word.getAttribute("role") === "button") word.setAttribute("aria-pressed", "false");
    }
  };

  const links = (word) =>
    word.dataset.a.split(" ").map((link) => {
      const [at, level] = link.split(":");
      return { at, level: level ?? "3" };
    });

  const lightUp = (finding, word) => {
    const wasPicked = word.classList.contains("picked");
    dim(finding);
    if (wasPicked) return;
    const isAnswer = word.closest(".answer") !== null;
    const own = new Map(links(word).map(({ at, level }) => [at, level]));
    for (const other of all("[data-a]", finding)) {
      if ((other.closest(".answer") !== null) === isAnswer) continue;
      const shared = links(other).filter(({ at }) => own.has(at));
      if (shared.length === 0) continue;
      const level = isAnswer ? shared[0].level : own.get(shared[0].at);
      other.classList.add("lit", `lit${level}`);
    }
    // A word may be cut where a private value or a mark begins: all of its pieces are picked.
    const where = word.closest(".text");
    for (const piece of all("[data-a]", where)) {
      if (piece === word || (isAnswer && piece.dataset.a === word.dataset.a)) {
        piece.classList.add("picked");
        piece.setAttribute("aria-pressed", "true");
      }
    }
    finding.classList.add("linking");
  };

  const prepare = (finding) => {
    if (finding.dataset.ready) return;
    finding.dataset.ready = "1";
    const seen = new Set();
    for (const word of all("[data-a]", finding)) {
      word.setAttribute("role", "button");
      word.setAttribute("aria-pressed", "false");
      // The pieces of an answer's word are one stop for the keyboard.
      const isAnswer = word.closest(".answer") !== null;
      word.tabIndex = isAnswer && seen.has(word.dataset.a) ? -1 : 0;
      if (isAnswer) seen.add(word.dataset.a);
    }
    for (const hint of all(".hint", finding)) hint.hidden = false;
  };

  const holder = (node) => node.closest(".finding");

  document.addEventListener("click", (event) => {
    const word = event.target.closest("[data-a]");
    if (word !== null && holder(word) !== null) lightUp(holder(word), word);
  });

  // -- copying ----------------------------------------------------------------------------------

  const copyByHand = (node) => {
    const range = document.createRange();
    range.selectNodeContents(node);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    return document.execCommand("copy");
  };

  const copy = async (node) => {
    try {
      await navigator.clipboard.writeText(node.textContent);
      return true;
    } catch {
      node.closest("details")?.setAttribute("open", "");
      return copyByHand(node);
    }
  };

  for (const button of all("button.copy")) {
    const label = button.textContent;
    button.hidden = false;
    button.addEventListener("click", async () => {
      button.textContent = (await copy(byId(button.dataset.copy))) ? "Copied" : "Press Ctrl+C";
      setTimeout(() => { button.textContent = label; }, 1500);
    });
  }

  // -- keyboard ---------------------------------------------------------------------------------

  const move = (step) => {
    const heads = all("#list .finding:not([hidden]) > summary");
    if (heads.length === 0) return;
    const at = heads.indexOf(document.activeElement?.closest(".finding")?.querySelector("summary"));
    const next = at < 0 ? (step > 0 ? 0 : heads.length - 1) : at + step;
    const head = heads[Math.min(Math.max(next, 0), heads.length - 1)];
    head.focus({ preventScroll: true });
    head.scrollIntoView({ block: "nearest" });
  };

  const escape = () => {
    const lit = all(".finding.linking");
    if (lit.length > 0) lit.forEach(dim);
    else if (list !== null) change({ q: "", kind: [], type: [] });
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const target = event.target;
    const isTyping = target.matches?.("input, select, textarea") ?? false;
    if (event.key === "Escape") {
      escape();
      if (isTyping) target.blur();
    } else if (isTyping) {
      return;
    } else if (target.matches?.("[data-a]") && (event.key === "Enter" || event.key === " ")) {
      event.preventDefault();
      target.click();
    } else if (list !== null && !byId("findings").hidden) {
      if (event.key === "/") {
        event.preventDefault();
        byId("filter").focus();
      } else if (event.key === "j" || event.key === "ArrowDown") {
        if (event.key === "j" || target.matches?.("summary")) { event.preventDefault(); move(1); }
      } else if (event.key === "k" || event.key === "ArrowUp") {
        if (event.key === "k" || target.matches?.("summary")) { event.preventDefault(); move(-1); }
      }
    }
  });

  // -- beginning --------------------------------------------------------------------------------

  for (const alone of all("article.finding, details.finding[open]")) prepare(alone);
  if (list !== null) {
    let waiting = 0;
    addChips("kind");
    addChips("type");
    byId("filter").addEventListener("input", (event) => {
      clearTimeout(waiting);
      waiting = setTimeout(() => change({ q: event.target.value }), 80);
    });
    byId("sort").addEventListener("change", (event) => change({ sort: event.target.value }));
    byId("group").addEventListener("change", (event) => change({ group: event.target.value }));
    byId("clear").addEventListener("click", () => change({ q: "", kind: [], type: [] }));
    const setAll = (isOpen) => () => {
      for (const finding of findings) if (!finding.hidden) finding.open = isOpen;
    };
    byId("open").addEventListener("click", setAll(true));
    byId("close").addEventListener("click", setAll(false));
    list.addEventListener("click", (event) => {
      const finding = event.target.closest("details.finding > summary")?.parentElement;
      if (!finding) return;
      // The click comes before it opens or closes.
      state = { ...state, open: finding.open ? "" : finding.querySelector(".body").id };
      writeAddress();
    });
    list.addEventListener("toggle", (event) => {
      const finding = event.target;
      if (!finding.matches("details.finding")) return;
      if (finding.open) prepare(finding);
    }, true);
    document.querySelector(".controls").hidden = false;
  }
  if (tabs.length > 0) {
    document.body.classList.add("tabbed");
    for (const link of tabs) {
      link.addEventListener("click", (event) => {
        event.preventDefault();
        state = { ...state, tab: link.getAttribute("href").slice(1), open: "" };
        writeAddress();
        showTab();
      });
    }
  }
  if (location.protocol === "about:") {
    // In a notebook's frame a link within the page would lead to the notebook.
    document.addEventListener("click", (event) => {
      const link = event.target.closest("a[href^='#']");
      if (link === null || event.defaultPrevented) return;
      event.preventDefault();
      state = { ...state, tab: "findings", open: link.getAttribute("href").slice(1) };
      showTab();
      openNamed(state.open);
    });
  }
  addEventListener("hashchange", fromAddress);
  fromAddress();
})();
