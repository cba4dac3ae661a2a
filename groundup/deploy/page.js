// The page's behaviour. Whatever comes from the model or the user is put in as text, never as markup.
(() => {
  const at = (id) => document.getElementById(id);
  const SLIDERS = ["temperature", "top_p", "top_k", "max_tokens"];
  const ENDS = {
    stop: "The model ended the text.",
    length: "Stopped at the largest number of tokens.",
    stopped: "Stopped by you.",
    error: "Broken off.",
  };
  let model = null, running = null, shown = null;

  function element(name, className, text) {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function number(value) {
    if (Number.isInteger(value)) return value.toLocaleString("en");
    return Math.abs(value) < 1e-4 ? value.toExponential(2) : String(Number(value.toPrecision(5)));
  }

  function complain(sentence) {
    at("error").textContent = sentence;
    at("error").hidden = !sentence;
  }

  // Where the server answers with an error, its own sentence is thrown.
  async function answered(response) {
    if (response.ok) return response;
    let sentence = `The server answered ${response.status} ${response.statusText}.`;
    try {
      sentence = (await response.json()).error.message;
    } catch { /* no sentence in it: the status has to do */ }
    throw new Error(sentence);
  }

  const sentence = (error) => error instanceof TypeError ? "The server can't be reached; is it still running?" : error.message;

  // --- settings and the curl example

  function settings() {
    const values = { model: model.id, prompt: at("prompt").value };
    for (const name of ["max_tokens", "temperature", "top_p", "top_k"]) values[name] = Number(at(name).value);
    values.seed = Math.trunc(Number(at("seed").value)) || 0;
    return values;
  }

  function refresh() {
    for (const name of SLIDERS) {
      const value = at(name).value;
      const words = name === "top_k" && value === "0" ? "all" : name === "temperature" && value === "0" ? "0 (likeliest)" : value;
      document.querySelector(`output[for="${name}"]`).textContent = words;
    }
    at("seed").disabled = at("fresh").checked;
    if (!model) return;
    const body = JSON.stringify(settings(), null, 2).replace(/'/g, "'\\''");
    at("curl").textContent = `curl -H 'Content-Type: application/json' \\\n  ${location.origin}/v1/completions \\\n  -d '${body}'`;
  }

  // --- generating

  // The data of each server-sent event, until [DONE].
  async function* events(response) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new Error("The connection broke off before the answer was complete.");
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const data = part.replace(/^data: /, "");
        if (data === "[DONE]") return;
        const event = JSON.parse(data);
        if (event.error) throw new Error(event.error.message);
        yield event;
      }
    }
  }

  function measure(tokens, start) {
    const seconds = (performance.now() - start) / 1000;
    at("readout").textContent =
      `${tokens} token${tokens === 1 ? "" : "s"} · ${(tokens / seconds).toFixed(1)} tokens/s · ${seconds.toFixed(1)} s`;
  }

  async function generate() {
    if (running || !model) return;
    if (at("fresh").checked) at("seed").value = crypto.getRandomValues(new Uint32Array(1))[0];
    refresh();
    const tried = { ...settings(), text: "", end: "error" };
    running = new AbortController();
    remember();
    shown = tried;
    complain("");
    busy(true);
    show(tried);
    const start = performance.now();
    let tokens = 0;
    try {
      const request = { ...settings(), stream: true, stream_options: { include_usage: true } };
      const response = await answered(await fetch("/v1/completions", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(request),
        signal: running.signal,
      }));
      for await (const event of events(response)) {
        for (const choice of event.choices) {
          tried.text += choice.text;
          at("made").append(choice.text);
          if (choice.text) tokens++;
          if (choice.finish_reason) tried.end = choice.finish_reason;
        }
        if (event.usage) tokens = event.usage.completion_tokens;
        measure(tokens, start);
        follow();
      }
    } catch (error) {
      if (error.name === "AbortError") tried.end = "stopped";
      else complain(sentence(error));
    }
    running = null;
    busy(false);
    if (tried.end === "error" && !tried.text) {
      shown = null;
      at("output").hidden = true;
      at("readout").textContent = "";
    } else at("ended").textContent = ENDS[tried.end] ?? "";
    // The server takes a moment to notice that a request was stopped.
    setTimeout(look, 300);
  }

  function busy(yes) {
    at("go").hidden = yes;
    at("stop").hidden = !yes;
    at("more").disabled = yes;
    document.body.classList.toggle("running", yes);
  }

  function show(tried) {
    at("given").textContent = tried.prompt;
    at("made").textContent = tried.text;
    at("ended").textContent = "";
    at("readout").textContent = "";
    at("output").hidden = false;
  }

  // Keeps the end in sight, unless the reader has scrolled up.
  function follow() {
    const box = at("text");
    if (box.scrollHeight - box.scrollTop - box.clientHeight < 60) box.scrollTop = box.scrollHeight;
  }

  // --- earlier tries

  function remember() {
    if (!shown) return;
    const tried = shown;
    const item = element("li", "card");
    const text = element("p", "text");
    text.append(element("span", "given", tried.prompt), element("span", "", tried.text));
    const again = element("button", "", "Use again");
    again.addEventListener("click", () => {
      at("prompt").value = tried.prompt;
      for (const name of SLIDERS) at(name).value = tried[name];
      at("seed").value = tried.seed;
      at("fresh").checked = false;
      refresh();
      at("prompt").focus();
      scrollTo({ top: 0, behavior: "smooth" });
    });
    const copy = element("button", "", "Copy");
    copy.addEventListener("click", () => copied(copy, text.textContent));
    const words = `temperature ${tried.temperature} · top-p ${tried.top_p} · top-k ${tried.top_k || "all"} · seed ${tried.seed}`;
    const bar = element("div", "bar");
    bar.append(again, copy, element("p", "readout", words));
    item.append(text, bar);
    at("list").prepend(item);
    at("tries").hidden = false;
  }

  async function copied(button, text) {
    const words = button.textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      // Browsers give the clipboard to https and this machine only.
      complain("The browser didn't allow copying; select the text instead.");
    }
    setTimeout(() => (button.textContent = words), 1200);
  }

  // --- the model and the server's state

  function rows(value, path, into) {
    if (value && typeof value === "object") {
      const inner = Object.entries(value);
      if (!Array.isArray(value) || inner.some(([, v]) => v && typeof v === "object")) {
        for (const [key, part] of inner) rows(part, path ? `${path}.${key}` : key, into);
        return into;
      }
      value = value.join(", ");
    }
    if (value !== null && value !== "") into.push([path, value]);
    return into;
  }

  function list(pairs, label) {
    const made = element("dl");
    for (const [key, value] of pairs) {
      const row = element("div");
      row.append(element("dt", "", label ? label(key) : key), element("dd", "", typeof value === "number" ? number(value) : String(value)));
      made.append(row);
    }
    return made;
  }

  const HEADLINES = [
    ["Recipe", /(^|\.)recipe$/],
    ["Parameters", /(^|\.)parameters$/],
    ["Bits per byte", /(^|\.)bits_per_byte$/],
    ["Tokens trained on", /(^|\.)training_tokens$/],
    ["Code version", /(^|\.)groundup\.version$/],
  ];

  function lineage(facts) {
    const all = rows(facts, "", []);
    const found = HEADLINES.map(([name, key]) => [name, all.find(([path]) => key.test(path))?.[1]]);
    found.push(["Context", `${number(model.context_length)} tokens`]);
    at("headline").replaceChildren(...list(found.filter(([, value]) => value !== undefined)).children);
    for (const [part, value] of Object.entries(facts)) {
      const pairs = rows(value, "", []);
      if (!pairs.length) continue;
      const fold = element("details");
      fold.append(element("summary", "", part[0].toUpperCase() + part.slice(1)), list(pairs.map(([k, v]) => [k || part, v])));
      at("facts").append(fold);
    }
    if (!all.length) at("facts").append(element("p", "nothing", "The folder holds no groundup.json, so its making is not known."));
  }

  async function look() {
    const state = at("state");
    try {
      const health = await (await answered(await fetch("/health"))).json();
      const words = health.active || health.waiting ? `${health.active} running, ${health.waiting} waiting` : "ready";
      state.className = "state ok";
      state.lastChild.textContent = words;
    } catch (error) {
      state.className = "state bad";
      state.lastChild.textContent = error instanceof TypeError ? "not reachable" : "stopped";
    }
  }

  async function begin() {
    refresh();
    try {
      const models = await (await answered(await fetch("/v1/models"))).json();
      const one = await answered(await fetch(`/v1/models/${models.data[0].id}`));
      model = await one.json();
      at("name").textContent = model.id;
      document.title = `${model.id} · Groundup`;
      at("max_tokens").max = Math.max(model.context_length - 1, 1);
      at("max_tokens").value = Math.min(200, Math.ceil(model.context_length / 2));
      lineage(model.groundup);
      refresh();
    } catch (error) {
      complain(sentence(error));
    }
    look();
    setInterval(look, 4000);
  }

  addEventListener("input", refresh);
  at("go").addEventListener("click", generate);
  at("stop").addEventListener("click", () => running?.abort());
  at("more").addEventListener("click", () => {
    at("prompt").value = at("text").textContent;
    generate();
  });
  addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) generate();
    if (event.key === "Escape") running?.abort();
  });
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", () => copied(button, at(button.dataset.copy).textContent));
  }
  at("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.style.colorScheme ? root.style.colorScheme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.style.colorScheme = dark ? "light" : "dark";
  });
  begin();
})();
