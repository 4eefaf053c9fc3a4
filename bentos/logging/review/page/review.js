// Labelling: the keys, the buttons, who labels, undo. The page itself is made by the server, and
// can be read without this. Text from outside is only ever read from attributes and sent as JSON.
"use strict";

(() => {
  const WAIT_MS = 15000;
  const MOST_UNDO = 200;
  const page = document.querySelector("[data-review]");
  const find = (selector) => document.querySelector(selector);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const here = page.dataset;
  const who = find("[data-who]");
  const heat = find("[data-heat]");
  let busy = false;

  const remembered = (storage, name) => {
    try { return storage.getItem(name); } catch { return null; }
  };
  const remember = (storage, name, value) => {
    // Where nothing may be stored, all works but what is remembered.
    try { storage.setItem(name, value); } catch { /* as it is */ }
  };
  const undoable = () => {
    try { return JSON.parse(remembered(sessionStorage, "review-undo") ?? "[]"); } catch { return []; }
  };

  const tell = (text, wrong = false) => {
    const told = find("[data-told]");
    told.textContent = text;
    told.classList.toggle("wrong", wrong);
  };

  const send = async (label) => {
    let answer;
    try {
      answer = await fetch("labels", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(label),
        signal: AbortSignal.timeout(WAIT_MS),
      });
    } catch {
      throw new Error("The service does not answer. Nothing was stored; try again.");
    }
    if (answer.status === 401) {
      throw new Error("Labelling needs a token: sign in at the top of the page.");
    }
    if (!answer.ok) {
      const body = await answer.json().catch(() => ({}));
      throw new Error(`Not stored: ${body.error ?? `the service answers ${answer.status}`}`);
    }
  };

  const attempt = async (work) => {
    if (busy) return;
    busy = true;
    page.setAttribute("aria-busy", "true");
    try {
      await work();
    } catch (error) {
      tell(error.message, true);
      for (const one of all(".chosen")) one.classList.remove("chosen");
      busy = false;
      page.removeAttribute("aria-busy");
    }
  };

  // `busy` stays until the next page is there, or one key pressed twice would label two pictures.
  const label = (name) => attempt(async () => {
    const labelledBy = who.value.trim();
    who.closest("label").classList.toggle("missing", !labelledBy);
    if (!labelledBy) {
      who.focus();
      throw new Error("Who labels? Enter your name first.");
    }
    for (const one of all("[data-class]")) one.classList.toggle("chosen", one.dataset.class === name);
    tell("Storing …");
    const note = find("[data-note]").value.trim();
    await send({
      prediction_id: here.id,
      edge_device_id: here.device,
      true_class: name,
      labelled_by: labelledBy,
      ...(note ? { note } : {}),
    });
    const done = { id: here.id, device: here.device, before: here.label || null, page: here.here };
    remember(sessionStorage, "review-undo", JSON.stringify([...undoable(), done].slice(-MOST_UNDO)));
    location.assign(here.next);
  });

  const undo = () => attempt(async () => {
    const done = undoable();
    const last = done.pop();
    if (!last) throw new Error("There is nothing to undo.");
    await send({
      prediction_id: last.id,
      edge_device_id: last.device,
      true_class: last.before,
      labelled_by: remembered(localStorage, "review-who") ?? "",
      note: "undone",
    });
    remember(sessionStorage, "review-undo", JSON.stringify(done));
    location.assign(last.page);
  });

  const go = (address) => {
    if (busy) return;
    busy = true;
    location.assign(address);
  };
  // What was shown before, labelled or not; without that, what stands before it in the queue.
  const back = () => (history.length > 1 ? history.back() : go(find('[data-move="back"]').href));
  const moves = { back, undo, skip: () => go(here.skip) };
  const keys = { u: undo, ArrowLeft: back, ArrowRight: moves.skip };

  document.addEventListener("keydown", (event) => {
    if (event.repeat || event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
    const typing = event.target.matches('input[type="text"], textarea, select');
    if (typing) {
      if (event.key === "Escape" || (event.key === "Enter" && !event.target.dataset.other)) {
        event.target.blur();
      }
      return;
    }
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const button = all("[data-key]").find((one) => one.dataset.key === key);
    if (button) label(button.dataset.class);
    else if (key === "h" && heat) heat.click();
    else if (here.id && keys[key]) keys[key]();
    else if (key === "u") undo();
    else return;
    event.preventDefault();
  });

  for (const one of all("[data-class]")) {
    one.disabled = false;
    one.addEventListener("click", () => label(one.dataset.class));
  }
  for (const one of all("[data-move]")) {
    if (one.dataset.move === "undo") {
      one.hidden = one.disabled = undoable().length === 0;
      if (here.id) one.hidden = false;
    }
    one.addEventListener("click", (event) => {
      event.preventDefault();
      moves[one.dataset.move]();
    });
  }

  if (who) {
    who.value = remembered(localStorage, "review-who") ?? "";
    who.addEventListener("input", () => {
      remember(localStorage, "review-who", who.value.trim());
      who.closest("label").classList.remove("missing");
    });
    const other = find("[data-other]");
    const labelOther = () => (other.value.trim() ? label(other.value.trim()) : other.focus());
    find("[data-label-other]").disabled = false;
    find("[data-label-other]").addEventListener("click", labelOther);
    other.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.isComposing) labelOther();
    });
  }

  const part = find("[data-part]");
  if (part) {
    // A small picture is shown large; the heat map lies over it in any case.
    const fit = () => {
      if (!part.naturalWidth) return;
      part.parentElement.style.setProperty("--ratio", part.naturalWidth / part.naturalHeight);
      part.parentElement.classList.add("sized");
    };
    part.addEventListener("load", fit);
    fit();
  }

  if (heat) {
    const map = find("[data-map]");
    const asking = () => {
      if (heat.checked && !(map.complete && map.naturalWidth)) tell("The heat map is being made …");
    };
    heat.checked = remembered(localStorage, "review-heat") === "1";
    heat.addEventListener("change", () => {
      remember(localStorage, "review-heat", heat.checked ? "1" : "0");
      asking();
    });
    map.addEventListener("load", () => tell(""));
    let again = true;
    map.addEventListener("error", async () => {
      // Asked as a program asks, it says why; or it works by now: the first map takes the longest.
      const answer = await fetch(map.src, { headers: { Accept: "application/json" } }).catch(() => null);
      if (answer?.ok && again) {
        again = false;
        map.src = map.getAttribute("src");
        return;
      }
      const body = await answer?.json().catch(() => ({}));
      tell(`No heat map: ${body?.error ?? "it could not be loaded"}`);
    });
    asking();
  }

  // The address becomes that of this picture, so that back and reload show the same one again.
  if (here.here) history.replaceState(null, "", here.here);
  window.addEventListener("pageshow", (event) => {
    if (event.persisted) location.reload();
  });
})();
