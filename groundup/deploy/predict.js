// The form made from the schema, its answer, and what is known of the model.
import { answered, at, complain, element, number, percent, predict, sentence } from "./predict_common.js";
import { arrange, MOMENTS, parse, rowOf } from "./predict_csv.js";
import { tables } from "./predict_table.js";

const MANY = 16; // columns from which on the form is compact and has a filter
const BARS = 10;
let schema = null, controls = [], showAll = false;

// --- the form

function build() {
  const many = schema.columns.length > MANY;
  at("fields").classList.toggle("many", many);
  at("filter").hidden = !many;
  controls = schema.columns.map(field);
  at("fields").replaceChildren(...controls.map((control) => control.closest("label")));
  at("count").textContent = `${number(schema.columns.length)} columns`;
}

function field(column, n) {
  const label = element("label");
  const control = column.kind === "number" ? element("input") : choices(column);
  const hint = element("span", "hint", range(column));
  hint.id = `hint-${n}`;
  if (column.kind === "number") {
    if (!MOMENTS.has(column.notation)) {
      control.type = "number";
      control.step = "any";
    }
    if (column.nullable) control.placeholder = "missing";
    control.addEventListener("input", () => judge(column, label, control));
  }
  control.setAttribute("aria-describedby", hint.id);
  label.title = [column.name, range(column)].filter(Boolean).join(": ");
  label.append(element("span", "name", column.name), control, hint);
  put(control, column.default);
  return control;
}

function choices(column) {
  const select = element("select");
  const values = column.kind === "boolean" ? [true, false] : column.categories;
  for (const value of values) select.append(new Option(String(value), JSON.stringify(value)));
  if (column.kind === "category") select.append(new Option("another one", JSON.stringify("\u2014")));
  if (column.nullable) select.append(new Option("missing", "null"));
  return select;
}

function range(column) {
  if (column.kind !== "number" || column.min === null || MOMENTS.has(column.notation)) return "";
  return `${number(column.min)} to ${number(column.max)}`;
}

function judge(column, label, control) {
  const value = control.valueAsNumber;
  label.classList.toggle("outside", column.min !== null && (value < column.min || value > column.max));
  control.removeAttribute("aria-invalid");
}

function put(control, value) {
  if (control.tagName === "INPUT") {
    control.value = value === null ? "" : value;
    control.dispatchEvent(new Event("input"));
    return;
  }
  const text = JSON.stringify(value);
  if (![...control.options].some((option) => option.value === text)) control.append(new Option(String(value), text));
  control.value = text;
}

// The form's values in the order of the columns. Throws an Error about the first that is none.
function values() {
  return schema.columns.map((column, n) => {
    const control = controls[n];
    if (column.kind !== "number") return JSON.parse(control.value);
    if (control.validity.badInput || (control.value === "" && !column.nullable)) {
      control.setAttribute("aria-invalid", "true");
      clear();
      control.focus();
      throw new Error(`“${column.name}” needs a ${MOMENTS.has(column.notation) ? "value" : "number"}.`);
    }
    if (MOMENTS.has(column.notation)) return control.value || null;
    return control.value === "" ? null : control.valueAsNumber;
  });
}

function clear() {
  at("filter").value = "";
  filter();
}

function filter() {
  const wanted = at("filter").value.trim().toLowerCase();
  let shown = 0;
  schema.columns.forEach((column, n) => {
    const fits = column.name.toLowerCase().includes(wanted);
    controls[n].closest("label").hidden = !fits;
    shown += fits;
  });
  const all = number(schema.columns.length);
  at("count").textContent = wanted ? `${number(shown)} of ${all} columns` : `${all} columns`;
}

function paste() {
  if (!at("paste").value.trim()) return complain("error", "");
  try {
    const records = parse(at("paste").value);
    const { header, places } = arrange(records, schema);
    const record = records[header ? 1 : 0];
    if (!record) return; // only a header so far
    rowOf(record, schema, places, records[0].cells.length).forEach((value, n) => put(controls[n], value));
    complain("error", "");
    run();
  } catch (error) {
    complain("error", `The row that was pasted: ${error.message}`);
  }
}

// --- the answer

async function run() {
  complain("error", "");
  let row;
  try {
    row = values();
    refresh(row);
    show(await predict([row]));
  } catch (error) {
    at("result").hidden = true;
    complain("error", sentence(error));
  }
}

function show({ classes, predictions, probabilities }) {
  const shares = classes.map((label, n) => [label, probabilities[0][n]]).sort((a, b) => b[1] - a[1]);
  at("answer").replaceChildren(String(predictions[0]), element("small", "", schema.target));
  const shown = showAll ? shares : shares.slice(0, BARS);
  at("bars").replaceChildren(...shown.map(([label, share]) => {
    const line = element("li"), track = element("span", "track"), bar = element("i");
    bar.style.width = `${100 * share}%`;
    track.append(bar);
    const name = element("span", "label", String(label));
    name.title = String(label);
    line.append(name, track, element("span", "share", percent(share)));
    return line;
  }));
  at("all").hidden = classes.length <= BARS;
  at("all").textContent = showAll ? `The ${BARS} likeliest only` : `All ${number(classes.length)} classes`;
  at("all").onclick = () => {
    showAll = !showAll;
    show({ classes, predictions, probabilities });
  };
  at("result").hidden = false;
}

function refresh(row) {
  const compact = schema.columns.length > MANY;
  const data = compact ? [row] : [Object.fromEntries(schema.columns.map((column, n) => [column.name, row[n]]))];
  const body = JSON.stringify({ data }, null, compact ? undefined : 1).replace(/'/g, "'\\''");
  at("curl").textContent = `curl -H 'Content-Type: application/json' \\\n  ${location.origin}/predict \\\n  -d '${body}'`;
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

function list(pairs) {
  const made = element("dl");
  for (const [key, value] of pairs) {
    const row = element("div");
    row.append(element("dt", "", key), element("dd", "", typeof value === "number" ? number(value) : String(value)));
    made.append(row);
  }
  return made;
}

function lineage(model) {
  const { lineage: made = {}, ...rest } = model.groundup;
  const { columns, ...data } = made.data ?? {}; // the columns are in the form
  const facts = { lineage: { ...made, data }, check: rest.check ?? {}, files: rest.files ?? {} };
  const metrics = made.metrics ?? {};
  const headlines = [
    ["Predicts", schema.target],
    ["Classes", model.classes],
    [`Accuracy, ${made.metrics_of}`, metrics.accuracy],
    [`F1 weighted, ${made.metrics_of}`, metrics.f1_weighted],
    ["Parameters", made.parameters],
    ["Code version", made.groundup?.version],
  ];
  at("headline").replaceChildren(...list(headlines.filter(([, value]) => value !== undefined)).children);
  for (const [part, value] of Object.entries(facts)) {
    const pairs = rows(value, "", []);
    if (!pairs.length) continue;
    const fold = element("details");
    fold.append(element("summary", "", part[0].toUpperCase() + part.slice(1)), list(pairs));
    at("facts").append(fold);
  }
}

async function look() {
  const state = at("state");
  try {
    await answered(await fetch("/health"));
    state.className = "state ok";
    state.lastChild.textContent = "ready";
  } catch (error) {
    state.className = "state bad";
    state.lastChild.textContent = error instanceof TypeError ? "not reachable" : "stopped";
  }
}

async function begin() {
  try {
    schema = await answered(await fetch("/schema"));
    const models = await answered(await fetch("/v1/models"));
    const model = await answered(await fetch(`/v1/models/${models.data[0].id}`));
    at("name").textContent = model.id;
    document.title = `${model.id} · Groundup`;
    build();
    tables(schema);
    lineage(model);
    await run();
  } catch (error) {
    complain("error", sentence(error));
  }
  look();
  setInterval(look, 4000);
}

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (schema) run();
});
at("filter").addEventListener("input", filter);
// Enter in these two doesn't ask for a prediction of half a change.
at("filter").addEventListener("keydown", (event) => event.key === "Enter" && event.preventDefault());
at("paste").addEventListener("keydown", (event) => event.key === "Enter" && (event.preventDefault(), paste()));
at("paste").addEventListener("paste", () => setTimeout(paste));
at("reset").addEventListener("click", () => {
  schema.columns.forEach((column, n) => put(controls[n], column.default));
  run();
});
at("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(at("curl").textContent);
    at("copy").textContent = "Copied";
  } catch {
    // Browsers give the clipboard to https and this machine only.
    complain("error", "The browser didn't allow copying; select the text instead.");
  }
  setTimeout(() => (at("copy").textContent = "Copy"), 1200);
});
at("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.style.colorScheme ? root.style.colorScheme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.style.colorScheme = dark ? "light" : "dark";
});
begin();
