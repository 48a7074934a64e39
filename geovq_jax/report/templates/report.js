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
