// Counts the seconds in [data-countdown] down to zero.
"use strict";
for (const shown of document.querySelectorAll("[data-countdown]")) {
  const end = performance.now() + Number(shown.dataset.countdown) * 1000;
  setInterval(() => {
    shown.textContent = String(Math.max(0, Math.round((end - performance.now()) / 1000)));
  }, 1000);
}
