// CSV by RFC 4180: quoted fields may hold delimiters, line breaks and doubled quotes; and what its cells mean.
const DELIMITERS = [",", ";", "\t", "|"];
const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i; // Number() would also take 0x10 and the like
export const MOMENTS = new Set(["date", "zoned", "time"]); // notations of columns that hold dates or times
const TRUTHS = { true: true, 1: true, false: false, 0: false };

// The likeliest delimiter: the one met most often in the first line, outside of quotes.
export function delimiterOf(text) {
  const counts = new Map(DELIMITERS.map((d) => [d, 0]));
  let quoted = false;
  for (const character of text) {
    if (character === '"') quoted = !quoted;
    else if (quoted) continue;
    else if (character === "\n" || character === "\r") break;
    else if (counts.has(character)) counts.set(character, counts.get(character) + 1);
  }
  return DELIMITERS.reduce((best, d) => counts.get(d) > counts.get(best) ? d : best);
}

// Records as {line, cells}, blank lines passed over. Throws an Error with the line where a quote is out of place.
export function parse(text, delimiter = delimiterOf(text)) {
  const records = [];
  let place = text.charCodeAt(0) === 0xfeff ? 1 : 0, line = 1;
  while (place < text.length) {
    const record = { line, cells: [] };
    for (;;) {
      let cell = "";
      if (text[place] === '"') {
        const opened = line;
        let from = ++place;
        for (;;) {
          const end = text.indexOf('"', from);
          if (end < 0) throw new Error(`Line ${opened}: a quote is opened and never closed.`);
          cell += text.slice(from, end);
          place = end + 1;
          if (text[place] !== '"') break;
          cell += '"';
          from = ++place;
        }
        line += cell.match(/\r\n|\r|\n/g)?.length ?? 0;
        if (place < text.length && text[place] !== delimiter && text[place] !== "\n" && text[place] !== "\r")
          throw new Error(`Line ${line}: after a closing quote there is ${JSON.stringify(text[place])}, where a delimiter or the line's end should be.`);
      } else {
        const start = place;
        while (place < text.length && text[place] !== delimiter && text[place] !== "\n" && text[place] !== "\r") place++;
        cell = text.slice(start, place);
      }
      record.cells.push(cell);
      if (text[place] !== delimiter) break;
      place++;
    }
    if (text[place] === "\r" && text[place + 1] === "\n") place++;
    place++;
    line++;
    if (record.cells.length > 1 || record.cells[0] !== "") records.push(record);
  }
  return records;
}

// One cell as the server takes it. Throws an Error that says what is wrong with it.
export function valueOf(column, cell, schema) {
  const text = cell.trim();
  if (schema.missing_values.includes(text) || (text === "" && column.kind === "number")) {
    if (column.nullable) return null;
    throw new Error("has no value, and the model was trained on whole rows");
  }
  if (column.kind === "category") return text;
  if (column.kind === "boolean") {
    const truth = TRUTHS[text.toLowerCase()];
    if (truth === undefined) throw new Error(`is ${JSON.stringify(text)}, which is neither true nor false`);
    return truth;
  }
  if (MOMENTS.has(column.notation)) return text; // the server reads it, and says what it can't read
  const plain = schema.decimal === "." ? text : text.replace(/[.,]/g, (sign) => sign === "," ? "." : "?");
  if (NUMBER.test(plain) && Number.isFinite(Number(plain))) return Number(plain);
  if (column.notation === "whole" && /^0x[\da-f]+$/i.test(text)) return text;
  throw new Error(`is ${JSON.stringify(text)}, which is no number`);
}

// Which cell of a record each column is: by the names in the first record, else by order.
// Gives {header, places}; throws an Error where neither fits.
export function arrange(records, { columns }) {
  const first = records[0].cells.map((cell) => cell.trim());
  const places = columns.map((column) => first.indexOf(column.name));
  const missing = columns.filter((_, n) => places[n] < 0).map((column) => column.name);
  if (!missing.length) return { header: first, places };
  if (missing.length < columns.length) throw new Error(`The header lacks ${some(missing)}.`);
  if (first.length !== columns.length)
    throw new Error(`There is no header with the model's columns, and the first line has ${first.length} values where the model takes ${columns.length}.`);
  const isNumber = (column) => column.kind === "number" && !MOMENTS.has(column.notation);
  const unlike = columns.every((column, n) => !isNumber(column) || Number.isNaN(Number(first[n])));
  if (unlike && columns.some(isNumber))
    throw new Error(`The header names none of the model's columns: ${some(columns.map((column) => column.name))}.`);
  return { header: null, places: columns.map((_, n) => n) };
}

function some(names) {
  const shown = names.slice(0, 4).map((name) => `“${name}”`).join(", ");
  return names.length > 4 ? `${shown} and ${names.length - 4} more` : shown;
}

// A record's values, with the line and column in the error.
export function rowOf(record, schema, places, width) {
  if (record.cells.length !== width) throw new Error(`Line ${record.line} has ${record.cells.length} values, the first line ${width}.`);
  return schema.columns.map((column, n) => {
    try {
      return valueOf(column, record.cells[places[n]], schema);
    } catch (error) {
      throw new Error(`Line ${record.line}: “${column.name}” ${error.message}.`);
    }
  });
}

export function quoted(cell) {
  const text = String(cell ?? "");
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
