// The YAML editor: line numbers, marks beside lines with problems, and keys that indent. Without it, it is a text area.

const INDENT = "  ";
const editor = document.querySelector("[data-editor]");
const text = editor.querySelector("textarea");
const numbers = editor.querySelector(".editor-numbers");
const problems = document.getElementById("problems");

function lineUp() {
  const lines = text.value.split("\n").length;
  text.rows = lines + 1;
  while (numbers.children.length > lines) numbers.lastElementChild.remove();
  for (let line = numbers.children.length + 1; line <= lines; line++) {
    const number = document.createElement("span");
    number.textContent = line;
    numbers.append(number);
  }
}

function mark() {
  const wrong = new Set([...problems.querySelectorAll("[data-line]")].map((each) => Number(each.dataset.line)));
  [...numbers.children].forEach((number, index) => number.classList.toggle("wrong", wrong.has(index + 1)));
}

text.addEventListener("input", lineUp);
document.body.addEventListener("htmx:afterSwap", (event) => {
  if (event.detail.target === problems) mark();
});
problems.addEventListener("click", (event) => {
  const link = event.target.closest("[data-line]");
  if (!link) return;
  event.preventDefault();
  go(Number(link.dataset.line));
});

function go(line) {
  const lines = text.value.split("\n");
  const start = lines.slice(0, line - 1).reduce((sum, each) => sum + each.length + 1, 0);
  text.focus();
  text.setSelectionRange(start, start + (lines[line - 1] ?? "").length);
  numbers.children[line - 1]?.scrollIntoView({ block: "nearest" });
  editor.scrollIntoView({ block: "nearest" });
}

// Tab indents only for who has begun to type or has clicked: others are on their way through the page. Escape ends it.

let typing = false;
text.addEventListener("focus", () => (typing = false));
text.addEventListener("pointerdown", () => setTimeout(() => (typing = true)));
text.addEventListener("input", () => (typing = true));
text.addEventListener("keydown", (event) => {
  if (event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") typing = false;
  else if (event.key === "Tab" && typing) {
    event.preventDefault();
    indent(event.shiftKey);
  } else if (event.key === "Enter" && !event.shiftKey) {
    const before = text.value.slice(0, text.selectionStart).split("\n").pop();
    const spaces = before.match(/^ */)[0];
    if (spaces) {
      event.preventDefault();
      insert(`\n${spaces}`);
    }
  }
});

function indent(back) {
  const { selectionStart: start, selectionEnd: end, value } = text;
  const first = value.lastIndexOf("\n", start - 1) + 1;
  if (start === end && !back) {
    insert(INDENT.slice((start - first) % INDENT.length));
    return;
  }
  const lines = value.slice(first, end).split("\n");
  const changed = lines.map((line) => (back ? line.replace(/^ {1,2}/, "") : line && INDENT + line));
  text.setSelectionRange(first, end);
  insert(changed.join("\n"));
  const grown = changed[0].length - lines[0].length;
  if (start === end) text.setSelectionRange(Math.max(first, start + grown), Math.max(first, start + grown));
  else text.setSelectionRange(first, first + changed.join("\n").length);
}

// The old command is the only way that lets people undo it.
function insert(words) {
  if (!document.execCommand("insertText", false, words)) {
    text.setRangeText(words, text.selectionStart, text.selectionEnd, "end");
    text.dispatchEvent(new Event("input", { bubbles: true }));
  }
}

lineUp();
mark();
