// Keyboard, link and downloads of the viewer's page. The server keeps no link: the state is in the
// part of the address after '#', which browsers never send.
() => {
  const viewer = { current: new URLSearchParams(), narrow: () => innerWidth <= 700 };
  window.cotapViewer = viewer;
  const find = (selector) => document.querySelector(selector);

  // What the server is asked for: the current link, and the layout of the sheet.
  viewer.wanted = () => {
    const parts = new URLSearchParams(viewer.current);
    parts.delete('narrow');
    if (viewer.narrow()) parts.set('narrow', '1');
    return parts.toString();
  };

  viewer.start = () => {
    viewer.current = new URLSearchParams(location.hash.slice(1));
    return [viewer.wanted()];
  };

  // The server has drawn another state: put it into the address.
  viewer.show = (link) => {
    viewer.label();
    if (!link) return;
    viewer.current = new URLSearchParams(link);
    history.replaceState(null, '', '#' + link);
  };

  viewer.go = () => find('#go')?.click();

  viewer.move = (down, right) => {
    const parts = viewer.current;
    const [rows, columns] = (parts.get('grid') || '').split('x').map(Number);
    if (!rows || !columns) return;
    const inside = (value, count) => Math.min(Math.max(value, 0), count - 1);
    parts.set('row', inside(Number(parts.get('row')) + down, rows));
    parts.set('column', inside(Number(parts.get('column')) + right, columns));
    viewer.go();
  };

  viewer.nextImage = (step) => {
    const count = viewer.current.getAll('image').length;
    if (!count) return;
    viewer.current.set('on', (Number(viewer.current.get('on')) + step + count) % count);
    viewer.go();
  };

  // The arrow keys of radio buttons: Gradio's are not a group for the browser.
  viewer.nextMode = (button, step) => {
    const buttons = [...document.querySelectorAll('#mode input')];
    const next = buttons[(buttons.indexOf(button) + step + buttons.length) % buttons.length];
    next.focus();
    next.click();
  };

  viewer.save = (file) => {
    if (!file) return;
    const link = document.createElement('a');
    link.href = file.url;
    link.download = file.orig_name;
    link.click();
  };

  viewer.copyLink = async () => {
    try {
      await navigator.clipboard.writeText(location.href);
    } catch {
      prompt('Link to this view', location.href);
    }
  };

  const arrows = {
    ArrowUp: [-1, 0],
    ArrowDown: [1, 0],
    ArrowLeft: [0, -1],
    ArrowRight: [0, 1],
  };

  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const at = event.target instanceof Element ? event.target : document.body;
    const field = at.closest('input:not([type=radio]), textarea, select, [contenteditable]');
    if (field) return;
    const { key } = event;
    if (key in arrows) {
      if (at.closest('#mode')) {
        viewer.nextMode(at, key === 'ArrowDown' || key === 'ArrowRight' ? 1 : -1);
        event.preventDefault();
        return;
      }
      if (at !== document.body && !at.closest('#sheet')) return;
      const step = event.shiftKey ? 4 : 1;
      viewer.move(arrows[key][0] * step, arrows[key][1] * step);
    } else if (/^[1-9]$/.test(key)) {
      const button = document.querySelectorAll('#mode input')[Number(key) - 1];
      if (!button) return;
      button.click();
    } else if (key === '[' || key === ']') {
      viewer.nextImage(key === ']' ? 1 : -1);
    } else {
      return;
    }
    event.preventDefault();
  });

  addEventListener('hashchange', () => {
    viewer.current = new URLSearchParams(location.hash.slice(1));
    viewer.go();
  });

  let wasNarrow = viewer.narrow();
  addEventListener('resize', () => {
    if (viewer.narrow() === wasNarrow) return;
    wasNarrow = viewer.narrow();
    viewer.go();
  });

  // Names for screen readers. The picture is one stop of the Tab key, not two.
  viewer.label = () => {
    const name = (element, text) => element?.setAttribute('aria-label', text);
    const sheet = find('#sheet');
    sheet?.setAttribute('tabindex', '0');
    sheet?.setAttribute('role', 'group');
    name(sheet, 'Pictures. The arrow keys move the patch, [ and ] change its image.');
    const inner = find('#sheet img')?.closest('button');
    inner?.setAttribute('tabindex', '-1');
    name(inner, 'Pictures');
    find('#note')?.setAttribute('aria-live', 'polite');
    const texts = {
      up: 'Move the patch up',
      down: 'Move the patch down',
      left: 'Move the patch left',
      right: 'Move the patch right',
      previous: 'Patch in the previous image',
      next: 'Patch in the next image',
    };
    for (const [id, text] of Object.entries(texts)) name(find('#' + id), text);
  };
  viewer.label();
}
