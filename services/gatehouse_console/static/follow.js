// Loads the elements with [data-follow] again while the reader wants to follow them, for ten minutes at most.
"use strict";
for (const place of document.querySelectorAll("[data-follow-control]")) {
  const label = document.createElement("label");
  const box = document.createElement("input");
  const shown = () => document.querySelector("[data-follow]");
  box.type = "checkbox";
  label.append(box, " Follow");
  place.append(label);
  box.addEventListener("change", async () => {
    const end = performance.now() + 600_000;
    while (box.checked && performance.now() < end) {
      await new Promise((resolve) => setTimeout(resolve, 2000));
      if (document.hidden || !box.checked) continue;
      const answer = await fetch(location.href).catch(() => null);
      if (!answer?.ok) break; // such as a session that has ended
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const now = page.querySelector("[data-follow]");
      if (now === null) break;
      // What has the focus stays.
      if (now.innerHTML !== shown().innerHTML && !shown().contains(document.activeElement)) shown().replaceWith(now);
    }
    box.checked = false;
  });
}
