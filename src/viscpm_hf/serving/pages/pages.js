// gradio's own words are those of the browser's language, which is made the page's
for (const [name, value] of [["language", "LANGUAGE"], ["languages", ["LANGUAGE"]]])
  Object.defineProperty(navigator, name, { get: () => value });
document.documentElement.lang = "LANGUAGE";

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
