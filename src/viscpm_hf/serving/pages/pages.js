// gradio's own words are those of the browser's language, which is made the page's
for (const [name, value] of [["language", "LANGUAGE"], ["languages", ["LANGUAGE"]]])
  Object.defineProperty(navigator, name, { get: () => value });
document.documentElement.lang = "LANGUAGE";

// What the Chat page does by itself, at once: a value that came back from the server would replace what somebody has
// written meanwhile. Functions take the page's words and components' values, and give components' values.
const update = (props) => ({ __type__: "update", ...props }), kept = update({});
const buttons = (turns) => Array(2).fill(update({ interactive: turns.length > 0 }));
const nobodys = update({ value: "", visible: false });
const chat = {
  busy: false,  // a question is under way
  refused: false, thrown: false,  // the last one is not taken, and not sent
  cleared: false,  // nothing of it is wanted any more
  question: null, turns: 0,  // what was asked, after how many turns

  // somebody presses Enter
  asked(words, question, talk) {
    const uploads = document.querySelector("#picture .uploading") != null;
    this.refused = this.busy || uploads;
    if (this.refused || !question.trim())
      return [kept, uploads ? update({ value: words.uploading, visible: true }) : kept, kept, kept, kept];
    this.question = question;
    const escaped = new Option(question.trim()).innerHTML;
    const said = [["user", escaped], ["assistant", words.thinking]].map(([role, text]) => ({
      role, content: [{ type: "text", text }], metadata: { title: null }, options: null }));
    return [[...talk, ...said], nobodys, update({ value: "", submit_btn: false }), ...buttons([])];
  },
  // a question goes to the server, unless it was not taken
  begin(words, question, turns, ...rest) {
    if (this.refused || this.busy) {
      Object.assign(this, { refused: false, thrown: true });
      throw new Error("A question is under way.");
    }
    this.busy = true;
    this.turns = turns.length;
    return [this.question ?? "", turns, ...rest];
  },
  // its answer is there, or will not come
  end(words, turns, talk, question) {
    const lost = !this.cleared && turns.length <= this.turns && !question && this.question;
    const field = update({ submit_btn: words.send, stop_btn: false, ...(lost ? { value: this.question } : {}) });
    if (this.cleared) turns = [];
    const shown = this.cleared ? [[], [], nobodys] : [talk.slice(0, 2 * turns.length), kept, kept];
    Object.assign(this, { busy: false, refused: false, cleared: false, question: null });
    return [...shown, field, ...buttons(turns)];
  },
  failed(...values) {
    if (!this.thrown) return this.end(...values);
    this.thrown = false;
    return Array(6).fill(kept);
  },
  undo(words, turns, talk, question) {
    if (this.busy || !turns.length) return Array(6).fill(kept);
    const field = question ? kept : update({ value: turns.at(-1)[0] });
    turns = turns.slice(0, -1);
    return [talk.slice(0, -2), turns, nobodys, field, ...buttons(turns)];
  },
  // what comes of a question under way would show up again: it is stopped before
  clear() {
    if (!this.busy) return [[], [], nobodys, kept, ...buttons([])];
    this.cleared = true;
    document.querySelector("#question .stop-button")?.click();
    return Array(6).fill(kept);
  },
};

// a picture that is pasted anywhere is the one to talk about
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((each) => each.type.startsWith("image/"));
  const input = document.querySelector("#picture input[type=file]");
  if (!file || !input) return;
  event.preventDefault();
  const files = new DataTransfer();
  files.items.add(file);
  input.files = files.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
});

// what gradio says in English only
const ofGradio = Object.entries(OF_GRADIO), attributes = ["aria-label", "title", "alt"];
const translated = (said) => {
  const found = ofGradio.find(([english]) => said.startsWith(english));
  return found && found[1] + said.slice(found[0].length);
};
const translate = (element) => {
  for (const name of attributes) {
    const said = translated(element.getAttribute(name) || "");
    if (said) element.setAttribute(name, said);
  }
  if (element.closest("#picture"))  // elsewhere are the words of people
    for (const text of element.childNodes) {
      const said = text.nodeType == Node.TEXT_NODE && translated(text.data.trim());
      if (said) text.data = said;
    }
};
if (ofGradio.length)
  new MutationObserver((changes) => {
    for (const { target, addedNodes } of changes) {
      if (!addedNodes.length) translate(target);
      for (const node of addedNodes)
        if (node.querySelectorAll) [node, ...node.querySelectorAll("*")].forEach(translate);
    }
  }).observe(document, { subtree: true, childList: true, attributes: true, attributeFilter: attributes });
