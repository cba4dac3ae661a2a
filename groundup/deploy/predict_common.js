// What the page's parts share. Whatever comes from the model or the user is put in as text, never as markup.
export const at = (id) => document.getElementById(id);

export function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

export function number(value) {
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return Math.abs(value) < 1e-4 ? value.toExponential(2) : String(Number(value.toPrecision(5)));
}

export const percent = (share) => share > 0 && share < 0.0005 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`;

// Whole numbers that a double would round, such as long labels, stay as they are written.
function exact(_, value, context) {
  return Number.isInteger(value) && !Number.isSafeInteger(value) && context?.source ? context.source : value;
}

// Where the server answers with an error, its own sentence is thrown.
export async function answered(response) {
  if (response.ok) return JSON.parse(await response.text(), exact);
  let sentence = `The server answered ${response.status} ${response.statusText}.`;
  try {
    sentence = (await response.json()).error.message;
  } catch { /* no sentence in it: the status has to do */ }
  throw new Error(sentence);
}

export const sentence = (error) => error instanceof TypeError ? "The server can't be reached; is it still running?" : error.message;

export async function predict(data, signal) {
  const headers = { "Content-Type": "application/json" };
  return answered(await fetch("/predict", { method: "POST", headers, body: JSON.stringify({ data }), signal }));
}

export function complain(id, words) {
  at(id).textContent = words;
  at(id).hidden = !words;
}
