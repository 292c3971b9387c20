"""The list of files on the page, as HTML: names are escaped, buttons carry a number and an action."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from flashvsr.app.queued_file import QueuedFile, State
from flashvsr.upscale.progress import duration

ON_LOAD = """
const opened = new Set();
const act = (event) => {
  if (event.target.closest('a, details')) return;
  const chosen = event.target.closest('[data-action]');
  if (chosen) trigger('act', {action: chosen.dataset.action, number: Number(chosen.dataset.number)});
};
element.addEventListener('pointerup', act);
element.addEventListener('click', (event) => { if (event.detail === 0) act(event); });
element.addEventListener('toggle', (event) => {
  opened[event.target.open ? 'add' : 'delete'](event.target.dataset.number);
}, true);
watch('value', () => {
  for (const log of element.querySelectorAll('details')) if (opened.has(log.dataset.number)) log.open = true;
});
"""
"""What the browser does with a click: tell the page which button of which file it was. The list is replaced while it
runs, so a click may begin on one button and end on its successor: where the pointer goes up counts, or a key. Logs that
were opened stay open."""

STYLE = """
.files {display: flex; flex-direction: column; gap: 8px}
.empty {padding: 56px 16px; text-align: center; border: 1px dashed var(--border-color-primary); border-radius: 8px;
  color: var(--body-text-color-subdued)}
.file {border: 1px solid var(--border-color-primary); border-radius: 8px; padding: 10px 14px; cursor: pointer;
  background: var(--background-fill-primary)}
.file.selected {border-color: var(--color-accent); box-shadow: 0 0 0 1px var(--color-accent)}
.row {display: flex; align-items: center; gap: 10px}
.name {font-weight: 600; flex: 1 1 100px; min-width: 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap}
.size {white-space: nowrap}
.size, .state, details {color: var(--body-text-color-subdued); font-size: 0.9em}
.failed .state {color: #dc2626}
.done .state {color: #0f766e}
.bar {height: 6px; border-radius: 3px; background: var(--border-color-primary); margin: 8px 0 4px; overflow: hidden}
.bar div {height: 100%; background: var(--color-accent); transition: width 0.5s}
button, a.get {border: 1px solid var(--border-color-primary); border-radius: 6px; padding: 2px 12px; font-size: 0.9em;
  margin: 0; white-space: nowrap; text-decoration: none;
  background: var(--button-secondary-background-fill); color: var(--body-text-color)}
a.get {background: var(--button-primary-background-fill); color: var(--button-primary-text-color); border: none}
pre {white-space: pre-wrap; overflow-wrap: anywhere; margin: 6px 0 0; font-size: 0.85em}
"""


def table(files: Sequence[QueuedFile], selected: int) -> str:
    """The list.

    Args:
        files: In the order in which they are shown.
        selected: The number of the one that is highlighted; 0 for none.

    Returns:
        HTML without scripts.
    """
    if not files:
        return '<div class="empty">Files that you drop appear here.</div>'
    return f'<div class="files">{"".join(_row(file, file.number == selected) for file in files)}</div>'


def status(file: QueuedFile) -> str:
    """Where a file is on its way, in words."""
    if file.state is State.RUNNING:
        words = [f"{file.done} of {file.total or '?'} frames" if file.done else "starting"]
        if file.fps:
            words.append(f"{file.fps:.2f} fps")
        if file.seconds_left is not None:
            words.append(f"about {duration(file.seconds_left)} left")
        return ", ".join(words)
    if file.state is State.FAILED:
        return file.log[-1].split("  ", 1)[1]
    if file.state is State.STOPPED:
        return f"stopped, {file.done} frames are kept" if file.done else "stopped"
    if file.state is State.DONE:
        return file.log[-1].split("  ", 1)[1]
    return {State.READY: "ready to start", State.WAITING: "waits for its turn"}[file.state]


def _row(file: QueuedFile, selected: bool) -> str:
    upload = file.upload
    size = f"{upload.width}x{upload.height}"
    if file.target is not None:
        height, width = file.target
        size += f" to {width}x{height}"
    if upload.seconds:
        size += f", {duration(upload.seconds)}"
    share = 100 * file.done / file.total if file.total else 0
    shows_bar = file.state is State.RUNNING or (file.state is State.STOPPED and file.done)
    bar = f'<div class="bar"><div style="width: {min(share, 100):.1f}%"></div></div>' if shows_bar else ""
    return (
        f'<div class="file {file.state}{" selected" if selected else ""}" data-action="select" '
        f'data-number="{file.number}"><div class="row"><span class="name">{escape(upload.name)}</span>'
        f'<span class="size">{size}</span>{_buttons(file)}</div>{bar}'
        f'<div class="state">{escape(status(file))}</div>{_log(file)}</div>'
    )


def _buttons(file: QueuedFile) -> str:
    found = []
    if file.output is not None:
        name = escape(file.output.name, quote=True)
        found.append(f'<a class="get" href="result/{file.number}" download="{name}">Download</a>')
    if file.state in (State.WAITING, State.RUNNING):
        found.append(_button(file, "stop", "Stop"))
    if file.state in (State.STOPPED, State.FAILED):
        found.append(_button(file, "resume", "Resume" if file.done else "Try again"))
    if file.state is not State.RUNNING:
        found.append(_button(file, "remove", "Remove"))
    return "".join(found)


def _button(file: QueuedFile, action: str, label: str) -> str:
    return f'<button data-action="{action}" data-number="{file.number}">{label}</button>'


def _log(file: QueuedFile) -> str:
    if not file.log:
        return ""
    lines = "\n".join((*file.log, file.trace)).rstrip()
    return f'<details data-number="{file.number}"><summary>Log</summary><pre>{escape(lines)}</pre></details>'
