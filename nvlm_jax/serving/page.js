"use strict";
// A conversation with the server: every turn with its pictures is sent again with each question, as the API wants it.
// What anybody says goes in as text, never as markup.
(() => {
  const $ = (id) => document.getElementById(id);
  const messages = []; // of the API: the turns that were answered, and the one that is being answered
  let pictures = []; // {name, url} that go with the next question
  let running = null; // AbortController of the answer under way

  // ---- pictures of the next question

  function addFiles(files) {
    const others = [...files].filter((file) => !file.type.startsWith("image/"));
    complain(others.length ? `no picture: ${others.map((file) => file.name).join(", ")}` : "");
    for (const file of files) {
      if (others.includes(file)) continue;
      const picture = { name: file.name, url: "" };
      pictures.push(picture); // at once, so that they stay in order however long each takes to read
      const reader = new FileReader();
      reader.onload = () => { picture.url = reader.result; drawPictures(); };
      reader.onerror = () => { drop(picture); complain(`${file.name}: ${reader.error.message}`); };
      reader.readAsDataURL(file);
    }
    $("question").focus();
  }

  function drop(picture) {
    pictures = pictures.filter((other) => other !== picture);
    drawPictures();
  }

  function drawPictures() {
    $("pictures").replaceChildren(...pictures.filter((picture) => picture.url).map((picture) => {
      const remove = element("button", "", "×");
      remove.type = "button";
      remove.ariaLabel = `Remove ${picture.name}`;
      remove.onclick = () => drop(picture);
      const figure = element("figure");
      figure.append(image(picture), remove);
      return figure;
    }));
  }

  // ---- what is on the page

  function element(name, kind = "", text = "") {
    const made = document.createElement(name);
    made.className = kind;
    made.textContent = text;
    return made;
  }

  function image(picture) {
    const made = new Image();
    made.src = picture.url;
    made.alt = picture.name;
    return made;
  }

  function addTurn(role, text, shown = []) {
    const turn = element("article", `turn ${role}`);
    const box = element("div", "pictures");
    box.append(...shown.map(image));
    const words = element("div", "text", text);
    const facts = element("div", "facts");
    turn.append(box, words, facts);
    $("turns").append(turn);
    toEnd();
    return { turn, words, facts };
  }

  function complain(text) {
    $("problem").textContent = text;
    $("problem").hidden = !text;
  }

  function busy(controller) {
    running = controller;
    $("send").hidden = Boolean(controller);
    $("stop").hidden = !controller;
  }

  // ---- a question and its answer

  async function send() {
    const text = $("question").value.trim(), asked = pictures;
    if (running || !(text || asked.length) || asked.some((picture) => !picture.url)) return;
    complain("");
    const parts = asked.map((picture) => ({ type: "image_url", image_url: { url: picture.url } }));
    messages.push({ role: "user", content: [...parts, ...(text ? [{ type: "text", text }] : [])] });
    const question = addTurn("user", text, asked), answer = addTurn("assistant", "");
    $("question").value = "";
    pictures = [];
    drawPictures();
    const controller = new AbortController();
    busy(controller);
    const take = (piece) => { if (running === controller) show(answer, piece); };
    try {
      await stream(controller.signal, take, answer.facts);
    } catch (error) {
      if (running !== controller) return; // a new chat has begun
      const stopped = error.name === "AbortError";
      answer.facts.append(element("div", stopped ? "facts" : "problem", stopped ? "stopped" : error.message));
      if (!stopped || !answer.words.textContent) takeBack(question, answer, text, asked);
    }
    if (running !== controller) return;
    busy(null);
    if (messages.at(-1)?.role === "user") messages.push({ role: "assistant", content: answer.words.textContent });
    if (atEnd()) toEnd();
    $("question").focus();
  }

  // The turn counts as not asked; what was asked stands in the form again, to be sent once more.
  function takeBack(question, answer, text, asked) {
    messages.pop();
    question.turn.classList.add("failed");
    answer.turn.classList.add("failed");
    if (!$("question").value) $("question").value = text;
    pictures = [...asked, ...pictures];
    drawPictures();
  }

  function show(answer, piece) {
    const bottom = atEnd();
    answer.words.textContent += piece;
    if (bottom) toEnd();
  }

  // Who has scrolled up to read is left there.
  function atEnd() {
    return window.innerHeight + window.scrollY >= document.body.scrollHeight - 80;
  }

  function toEnd() {
    window.scrollTo(0, document.body.scrollHeight);
  }

  async function stream(signal, take, facts) {
    const begin = performance.now();
    const key = $("key").value;
    const response = await fetch("v1/chat/completions", {
      method: "POST",
      signal,
      headers: { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) },
      body: JSON.stringify({ messages, stream: true, stream_options: { include_usage: true } }),
    }).catch((error) => {
      if (error.name === "AbortError") throw error;
      throw new Error(`the server cannot be reached (${error.message})`);
    });
    if (!response.ok) {
      const body = await response.json().catch(() => null); // a proxy's error is no JSON
      throw new Error(body?.error?.message ?? `${response.status} ${response.statusText}`);
    }
    let done = false;
    for await (const data of events(response.body)) {
      if (data === "[DONE]") { done = true; continue; }
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      take(event.choices[0]?.delta.content ?? "");
      if (event.choices[0]?.finish_reason === "length") facts.append(element("div", "", "cut at the token limit"));
      if (event.usage) {
        const seconds = ((performance.now() - begin) / 1000).toFixed(2);
        const { prompt_tokens: read, completion_tokens: written } = event.usage;
        facts.append(element("div", "", `${read} tokens read, ${written} written, ${seconds} s`));
      }
    }
    if (!done) throw new Error("the answer broke off");
  }

  async function* events(body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (let part; !(part = await reader.read()).done;) {
      const whole = (rest + part.value).split("\n\n");
      rest = whole.pop();
      for (const event of whole) yield event.slice("data: ".length);
    }
  }

  function begin() {
    running?.abort();
    busy(null);
    messages.length = 0;
    pictures = [];
    drawPictures();
    complain("");
    $("turns").replaceChildren();
    $("question").value = "";
    $("question").focus();
  }

  // ---- hands on the page

  $("drop").onclick = () => $("file").click();
  $("drop").onkeydown = (e) => { if (e.key === "Enter" || e.key === " ") { e.preventDefault(); $("file").click(); } };
  $("file").onchange = () => { addFiles($("file").files); $("file").value = ""; };
  document.ondragover = (e) => { e.preventDefault(); $("drop").classList.add("over"); };
  document.ondragleave = () => $("drop").classList.remove("over");
  document.ondrop = (e) => { e.preventDefault(); $("drop").classList.remove("over"); addFiles(e.dataTransfer.files); };
  document.onpaste = (e) => { if (e.clipboardData.files.length) { e.preventDefault(); addFiles(e.clipboardData.files); } };
  document.onkeydown = (e) => { if (e.key === "Escape") running?.abort(); };
  $("question").onkeydown = (e) => {
    if (e.key === "Enter" && !e.shiftKey && !e.isComposing) { e.preventDefault(); send(); }
  };
  $("form").onsubmit = (e) => { e.preventDefault(); send(); };
  $("stop").onclick = () => running?.abort();
  $("new").onclick = begin;

  fetch("health").then((r) => r.json()).then((h) => { $("model").textContent = h.model ?? ""; }).catch(() => {});
})();
