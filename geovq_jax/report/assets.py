"""Style sheet and script of the report page."""

CSS = """
:root { color-scheme: light dark;
  --paper: #ffffff; --ground: #f5f6f7; --ink: #1d2126; --soft: #5b636d; --line: #dfe3e7; --accent: #215f9a;
  --shade: #f0f2f4; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #1b1f24; --ground: #13161a; --ink: #e4e7ea; --soft: #9aa3ad; --line: #2e343b; --accent: #7fb4e6;
  --shade: #23282e; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; scroll-padding-top: 3.6rem; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
header, main, footer { max-width: 62rem; margin: 0 auto; padding: 0 1.5rem; }
header { padding-top: 3rem; padding-bottom: 1.2rem; }
h1 { font-size: 2rem; line-height: 1.2; font-weight: 650; letter-spacing: -0.015em; margin: 0 0 .4rem; }
.subtitle { color: var(--soft); margin: 0; }
nav { position: sticky; top: 0; z-index: 2; background: var(--ground); border-bottom: 1px solid var(--line); }
nav ol { list-style: none; display: flex; flex-wrap: wrap; gap: .1rem 1.4rem; overflow-x: auto;
  max-width: 62rem; margin: 0 auto; padding: .75rem 1.5rem; scrollbar-width: none; }
nav a { white-space: nowrap; font-size: .9rem; color: var(--soft); text-decoration: none; }
nav a:hover, nav a:focus-visible { color: var(--accent); }
a { color: var(--accent); text-underline-offset: .15em; }
section { margin: 1.6rem 0; padding: 1.5rem 1.6rem; background: var(--paper); border: 1px solid var(--line);
  border-radius: 10px; }
h2 { font-size: 1.25rem; font-weight: 620; margin: 0 0 .7rem; letter-spacing: -0.01em; }
p { margin: .6rem 0; max-width: 46rem; }
code { font: .88em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  background: var(--shade); border-radius: 4px; padding: .1em .35em; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: 1.1rem 0; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; min-width: 50%; }
caption { text-align: left; color: var(--soft); font-size: .9rem; padding-bottom: .45rem; }
th, td { text-align: left; padding: .38rem 1.3rem .38rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; color: var(--soft); border-bottom-width: 2px; }
tr > :last-child { padding-right: 0; }
.n { text-align: right; white-space: nowrap; }
figure { margin: 1.5rem 0; }
figure button { display: block; max-width: 100%; padding: .5rem; margin: 0; border: 1px solid var(--line);
  border-radius: 8px; background: #fff; cursor: zoom-in; }
figure button:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
figure img { display: block; max-width: 100%; height: auto; }
section > :last-child { margin-bottom: 0; }
figcaption { color: var(--soft); font-size: .92rem; margin-top: .55rem; max-width: 46rem; }
details { margin-top: .35rem; font-size: .85rem; color: var(--soft); }
summary { cursor: pointer; width: fit-content; }
pre { max-height: 20rem; overflow: auto; margin: .5rem 0 0; padding: .8rem; border-radius: 8px;
  background: var(--shade); color: var(--ink); font: .8rem/1.5 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono",
  monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
.links { list-style: none; display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; padding: 0; margin: .9rem 0 0;
  font-size: .92rem; }
dialog { border: 0; padding: 0; margin: auto; background: transparent; max-width: 97vw; max-height: 97vh;
  overflow: auto; cursor: zoom-out; }
dialog::backdrop { background: rgb(10 12 15 / .82); }
dialog img { display: block; background: #fff; border-radius: 6px; width: auto; max-width: none; height: auto;
  min-width: min(97vw, 60rem); max-height: none; }
footer { color: var(--soft); font-size: .85rem; padding-top: .4rem; padding-bottom: 3rem; }
@media (prefers-color-scheme: dark) { figure button, dialog img { filter: brightness(.9); } }
@media (max-width: 40rem) {
  header, footer { padding-left: 1.1rem; padding-right: 1.1rem; } header { padding-top: 1.8rem; }
  main { padding: 0; } nav ol { padding-left: 1.1rem; padding-right: 1.1rem; flex-wrap: nowrap; }
  h1 { font-size: 1.55rem; }
  section { margin: .9rem 0; padding: 1.1rem; border-radius: 0; border-left: 0; border-right: 0; }
  figure button { padding: .25rem; } th, td { padding-right: .9rem; } }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
@media print { nav, details, dialog { display: none; } section { break-inside: avoid; border: 0; padding: 0; } }
"""

# One dialog serves all figures: it borrows the image's own data, so nothing is stored or fetched twice.
SCRIPT = """
const view = document.querySelector('dialog');
const large = view.querySelector('img');
for (const button of document.querySelectorAll('figure button')) {
  button.addEventListener('click', () => {
    const image = button.querySelector('img');
    large.src = image.src;
    large.alt = image.alt;
    view.showModal();
  });
}
view.addEventListener('click', () => view.close());
"""
