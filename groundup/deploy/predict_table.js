// A whole CSV file: read here, sent in portions, shown and given back with its predictions.
import { at, complain, element, percent, predict, sentence } from "./predict_common.js";
import { arrange, parse, quoted, rowOf } from "./predict_csv.js";

const SHOWN = 100;
const VALUES_AT_ONCE = 200_000;
let running = null;

export function tables(schema) {
  const drop = at("drop");
  at("upload").addEventListener("click", () => (at("upload").value = "")); // the same file can be chosen again
  at("upload").addEventListener("change", () => at("upload").files.length && read(at("upload").files[0], schema));
  drop.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (event.dataTransfer.files.length) read(event.dataTransfer.files[0], schema);
  });
  at("cancel").addEventListener("click", () => running?.abort());
}

async function read(file, schema) {
  running?.abort();
  const mine = running = new AbortController();
  for (const id of ["scroll", "download", "progressBar"]) at(id).hidden = true;
  complain("tableError", "");
  try {
    const table = checked(await text(file), schema);
    const done = await predictAll(table, schema, mine.signal);
    if (running === mine) show(table, done, schema, file.name);
  } catch (error) {
    if (running !== mine) return;
    if (error.name === "AbortError") at("done").textContent = "Stopped by you.";
    else complain("tableError", `${file.name}: ${sentence(error)}`);
  } finally {
    if (running === mine) {
      running = null;
      at("cancel").hidden = at("progress").hidden = true;
    }
  }
}

async function text(file) {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
  } catch (error) {
    throw new Error(error instanceof TypeError ? "The file is not in UTF-8." : "The file can't be read.");
  }
}

// The whole file is checked before anything is sent.
function checked(content, schema) {
  const records = parse(content);
  if (!records.length) throw new Error("The file has no rows.");
  const { header, places } = arrange(records, schema);
  const width = records[0].cells.length;
  if (header) records.shift();
  if (!records.length) throw new Error("There are no rows below the header.");
  const rows = records.map((record) => rowOf(record, schema, places, width));
  return { header, records, rows, target: header ? header.indexOf(schema.target) : -1 };
}

async function predictAll({ rows }, schema, signal) {
  at("progressBar").hidden = at("cancel").hidden = at("progress").hidden = false;
  const size = Math.max(1, Math.min(schema.limits.rows, 2000, Math.floor(VALUES_AT_ONCE / schema.columns.length)));
  const done = { predictions: [], probabilities: [] };
  for (let start = 0; start < rows.length; start += size) {
    at("progress").value = start / rows.length;
    at("done").textContent = `${start.toLocaleString("en")} of ${rows.length.toLocaleString("en")} rows`;
    const part = await predict(rows.slice(start, start + size), signal);
    for (const label of part.predictions) done.predictions.push(label);
    for (const shares of part.probabilities) done.probabilities.push(shares);
  }
  return done;
}

function show({ header, records, target }, done, schema, name) {
  const titles = element("tr");
  const names = ["line", ...(target < 0 ? [] : [schema.target]), "prediction", "probability"];
  for (const title of names) {
    const cell = element("th", title === "line" || title === "probability" ? "number" : "", title);
    cell.scope = "col";
    titles.append(cell);
  }
  at("head").replaceChildren(titles);
  let right = 0;
  const lines = records.map((record, n) => {
    const label = String(done.predictions[n]), actual = record.cells[target]?.trim();
    if (same(label, actual)) right++;
    if (n >= SHOWN) return null;
    const row = element("tr");
    row.append(element("td", "number", record.line.toLocaleString("en")));
    if (target >= 0) row.append(element("td", "", actual));
    row.append(element("td", target >= 0 && !same(label, actual) ? "wrong" : "", label));
    row.append(element("td", "number", percent(Math.max(...done.probabilities[n]))));
    return row;
  });
  at("body").replaceChildren(...lines.filter(Boolean));
  const rows = records.length.toLocaleString("en");
  const words = [`${rows} ${records.length === 1 ? "row" : "rows"}`];
  if (target >= 0) words.push(`${percent(right / records.length)} as in “${schema.target}”`);
  if (records.length > SHOWN) words.push(`the first ${SHOWN} are shown`);
  at("done").textContent = words.join(" · ");
  at("scroll").hidden = at("download").hidden = false;
  at("download").onclick = () => save(header, records, done, schema, name);
}

// Numbers may be written otherwise in the file: 3 and 3.0.
function same(label, actual) {
  return label === actual || (actual !== undefined && actual !== "" && label !== "" && Number(label) === Number(actual));
}

function save(header, records, done, schema, name) {
  const lines = [];
  const titles = header ?? schema.columns.map((column) => column.name);
  lines.push([...titles, `predicted ${schema.target}`, ...schema.classes.map((label) => `probability ${label}`)]);
  records.forEach((record, n) => lines.push([...record.cells, done.predictions[n], ...done.probabilities[n]]));
  const content = lines.map((cells) => `${cells.map(quoted).join(",")}\r\n`);
  const link = element("a");
  link.href = URL.createObjectURL(new Blob(content, { type: "text/csv" }));
  link.download = `${name.replace(/\.[^.]*$/, "")}-predictions.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
