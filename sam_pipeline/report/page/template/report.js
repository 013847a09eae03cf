"use strict";
(() => {
  const data = JSON.parse(document.getElementById("page-data").textContent);
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  const percent = (share) => (100 * share).toFixed(1) + "\u00a0%";
  const words = (number, one) => `${number.toLocaleString("en-US")} ${one}${number === 1 ? "" : "s"}`;
  const made = (name, text, parent) => {
    const element = document.createElement(name);
    element.textContent = text;
    if (parent) parent.append(element);
    return element;
  };

  // A slider below each curve of thresholds.
  for (const figure of all("[data-curve]")) {
    const rows = data.curves[figure.dataset.curve];
    const slider = figure.querySelector("input");
    const show = () => {
      const first = rows[0][0];
      const row = rows[Math.min(rows.length - 1, Math.round((slider.value - first) / 0.005))];
      const [threshold, masks, share, images, imageShare] = row;
      const x = data.frame.left + (data.frame.right - data.frame.left) * (threshold - first) / (1 - first);
      figure.querySelector(".marker").setAttribute("d", `M${x} ${data.frame.top}V${data.frame.bottom}`);
      figure.querySelector("output").textContent =
        `${threshold} keeps ${words(masks, "mask")} (${percent(share)}), in ${words(images, "image")} (${percent(imageShare)})`;
      figure.querySelector(".value").textContent = threshold;
    };
    slider.addEventListener("input", show);
    show();
  }

  // What is shown over the pictures.
  for (const name of ["masks", "labels", "boxes"]) {
    const box = document.getElementById("show-" + name);
    if (box) box.addEventListener("change", () => document.body.classList.toggle("no-" + name, !box.checked));
  }

  // What a person drops; it outlives a reload where the browser keeps such things for a file.
  const storageName = "sam-pipeline review of " + data.output;
  const dropped = { images: new Set(), masks: {} };
  const masksOf = (id) => (dropped.masks[id] ??= new Set());
  const cards = [];

  const masksDropped = (id) => [...masksOf(id)].sort();

  // By URI, since another page of the run may show other images, or number them anew.
  const stored = () => {
    try {
      return new Map(JSON.parse(localStorage.getItem(storageName)));
    } catch {
      return new Map();
    }
  };

  const remember = () => {
    const entries = stored();
    let numMasks = 0;
    for (const [id, uri] of Object.entries(data.images)) {
      const masks = masksDropped(id);
      numMasks += masks.length;
      if (dropped.images.has(id) || masks.length) entries.set(uri, { keep: !dropped.images.has(id), masks });
      else entries.delete(uri);
    }
    try {
      localStorage.setItem(storageName, JSON.stringify([...entries]));
    } catch { /* the file itself is what counts */ }
    document.getElementById("review-count").textContent = dropped.images.size + numMasks
      ? `${words(dropped.images.size, "image")} and ${words(numMasks, "mask")} dropped` : "Nothing dropped";
  };

  const recall = () => {
    const entries = stored();
    for (const [id, uri] of Object.entries(data.images)) {
      const entry = entries.get(uri) ?? { keep: true, masks: [] };
      if (!entry.keep) dropped.images.add(id);
      for (const key of entry.masks) masksOf(id).add(key);
    }
  };

  for (const card of all(".card")) {
    const id = card.dataset.image;
    const picture = card.querySelector(".picture");
    const group = card.querySelector(".masks");
    const line = card.querySelector(".at");
    const paths = all("path", group);
    // The browser would show a second tooltip beside the line below the picture.
    const numbers = paths.map((path) => {
      const title = path.querySelector("title");
      title.remove();
      return title.textContent;
    });
    let active = -1;

    const isDropped = (index) => data.review && masksOf(id).has(paths[index].dataset.key);
    const look = (index) => {
      if (active >= 0) paths[active].classList.remove("active");
      active = index;
      group.classList.toggle("looking", index >= 0);
      if (index >= 0) paths[index].classList.add("active");
      line.textContent = index < 0 ? "" : (isDropped(index) ? "Dropped. " : "") + numbers[index];
    };
    const show = () => {
      card.classList.toggle("dropped", dropped.images.has(id));
      paths.forEach((path, index) => path.classList.toggle("dropped", isDropped(index)));
      card.querySelector(".keep-image").checked = !dropped.images.has(id);
      for (const box of all("[data-mask]", card)) box.checked = !isDropped(box.dataset.mask);
      if (active >= 0) look(active);
    };
    const toggle = (index) => {
      const keys = masksOf(id), key = paths[index].dataset.key;
      if (!keys.delete(key)) keys.add(key);
      show();
      remember();
    };

    picture.addEventListener("pointerover", (event) => look(paths.indexOf(event.target)));
    picture.addEventListener("pointerleave", () => look(-1));
    picture.addEventListener("blur", () => look(-1));
    picture.addEventListener("keydown", (event) => {
      const last = paths.length - 1;
      const moves = {
        ArrowRight: active >= last ? 0 : active + 1, ArrowDown: active >= last ? 0 : active + 1,
        ArrowLeft: active <= 0 ? last : active - 1, ArrowUp: active <= 0 ? last : active - 1,
        Home: 0, End: last, Escape: -1,
      };
      if (event.key in moves && last >= 0) look(moves[event.key]);
      else if (event.key === " " && data.review && active >= 0) toggle(active);
      else return;
      event.preventDefault();
    });

    const list = card.querySelector(".list");
    if (list) list.addEventListener("toggle", () => {
      if (list.querySelector("ol")) return;
      const listed = made("ol", "", list);
      numbers.forEach((text, index) => {
        const item = made("li", "", listed);
        item.value = paths[index].dataset.number;
        if (data.review) {
          const label = made("label", "", item), box = made("input", "", label);
          box.type = "checkbox";
          box.dataset.mask = index;
          box.checked = !isDropped(index);
          box.addEventListener("change", () => toggle(index));
          label.append(" keep: ");
        }
        item.append(text.replace(/^Mask \d+: /, ""));
        item.addEventListener("pointerenter", () => look(index));
        item.addEventListener("pointerleave", () => look(-1));
      });
    });

    if (data.review) {
      picture.addEventListener("click", (event) => {
        const index = paths.indexOf(event.target);
        if (index >= 0) toggle(index);
      });
      card.querySelector(".keep-image").addEventListener("change", (event) => {
        if (event.target.checked) dropped.images.delete(id); else dropped.images.add(id);
        show();
        remember();
      });
      cards.push(show);
    }
  }

  if (data.review) {
    recall();
    cards.forEach((show) => show());
    remember();
    document.getElementById("review-reset").addEventListener("click", () => {
      dropped.images.clear();
      dropped.masks = {};
      cards.forEach((show) => show());
      remember();
    });
    document.getElementById("review-save").addEventListener("click", () => {
      const images = Object.entries(data.images).map(([id, uri]) => ({
        image_id: Number(id), uri, keep: !dropped.images.has(id), dropped_masks: masksDropped(id),
      }));
      const text = JSON.stringify({ ...data.review, output: data.output, images }, null, 1);
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
      link.download = "review.json";
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    });
  }
})();
