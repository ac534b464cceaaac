// Copies commands, calls at Ctrl+Enter, and shows the responses of a call when they arrive.
"use strict";
const MAX_SHOWN = 100;

for (const button of document.querySelectorAll("[data-copy]")) {
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.textContent = "Copied";
  });
}

for (const area of document.querySelectorAll("textarea")) {
  area.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      area.form.requestSubmit(area.form.querySelector("[name=do][value=call]"));
    }
  });
}

const live = document.querySelector("[data-events]");
if (live) {
  const source = new EventSource(live.dataset.events);
  const said = live.querySelector("[data-said]");
  const list = live.querySelector(".responses");
  const say = (text) => { said.textContent = text; };

  source.addEventListener("response", (event) => {
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
    list.insertAdjacentHTML("beforeend", event.data);
    while (list.children.length > MAX_SHOWN) {
      list.firstElementChild.remove();
    }
    if (atEnd) {
      list.scrollTop = list.scrollHeight;
    }
    live.querySelector("[data-count]").textContent = `${event.lastEventId} so far.`;
    say(`Response ${event.lastEventId}`);
  });

  source.addEventListener("end", (event) => {
    source.close();
    const form = live.querySelector("form");
    const hadFocus = form.contains(document.activeElement);
    form.remove();
    live.querySelector("[data-outcome]").innerHTML = event.data;
    const title = live.querySelector("#result");
    say(title.textContent);
    if (hadFocus) {
      title.focus();
    }
  });

  source.addEventListener("error", () => {
    if (source.readyState === EventSource.CLOSED) {
      live.querySelector("[data-count]").textContent = "This page is not updated. Reload it to see more.";
    }
  });
}
