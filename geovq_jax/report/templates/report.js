// One dialog serves all figures: it shows the image's own data, so nothing is stored or fetched twice.
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
// The link of the part that the reader is in: the last one whose head has passed the upper third of the window.
const links = [...document.querySelectorAll('nav a')];
const parts = links.map(link => document.querySelector(link.getAttribute('href')));
function mark() {
  const ended = innerHeight + scrollY >= document.documentElement.scrollHeight - 2;
  const passed = parts.filter(part => part.getBoundingClientRect().top < innerHeight / 3).length;
  const current = links[ended ? links.length - 1 : Math.max(passed - 1, 0)];
  if (!current || current.hasAttribute('aria-current')) return;
  for (const link of links) link.removeAttribute('aria-current');
  current.setAttribute('aria-current', 'true');
  const bar = current.closest('ol');
  bar.scrollLeft = current.offsetLeft - (bar.clientWidth - current.offsetWidth) / 2;
}
addEventListener('scroll', mark, { passive: true });
addEventListener('resize', mark);
mark();
// Tables that are wider than the page can be scrolled from the keyboard.
function reach() {
  for (const box of document.querySelectorAll('.scroll')) box.tabIndex = box.scrollWidth > box.clientWidth ? 0 : -1;
}
addEventListener('resize', reach);
reach();
