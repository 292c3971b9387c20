"""The page: what is on it, and what each click does. All the work is done elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from PIL import ImageDraw
from PIL.Image import Image

from flashvsr.app.errors import explain
from flashvsr.app.listing import ON_LOAD, STYLE, table
from flashvsr.app.models import Models, with_detail
from flashvsr.app.preview import PARTS, part_of, preview, read_frame
from flashvsr.app.queue import Queue
from flashvsr.app.queued_file import QueuedFile, Settings, State
from flashvsr.video import VideoError

FONT = ["system-ui", "Segoe UI", "Roboto", "Helvetica", "Arial", "sans-serif"]
MONO = ["ui-monospace", "Menlo", "Consolas", "monospace"]
PREVIEW_SECONDS = 3.0
UPDATE_SECONDS = 1.5
SIZES = [
    *((f"{scale} times", f"{scale}x") for scale in (2, 3, 4)),
    *((f"height {height}", f"{height}p") for height in (720, 1080, 1440, 2160)),
]
HIDDEN: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
CSS = """
.gradio-container {max-width: 1180px !important; margin: 0 auto !important}
#title h1 {margin: 0.3em 0 0 0} #title p {color: var(--body-text-color-subdued)}
#video video {width: 100%; max-height: 500px; background: black; border-radius: 8px}
#part .wrap {flex-wrap: nowrap}
footer {display: none !important}
"""


def theme() -> gr.Theme:
    """Plain, and with fonts of the reader's machine: nothing is loaded from elsewhere."""
    return gr.themes.Default(primary_hue="teal", neutral_hue="slate", font=FONT, font_mono=MONO)


class Page:
    """The page of one queue.

    Args:
        queue: Where files go.
        models: Those that a visitor can choose.
        videos: A folder for the videos of previews.
    """

    def __init__(self, queue: Queue, models: Models, videos: Path) -> None:
        self._queue, self._models, self._videos = queue, models, videos
        self._previews = 0
        with gr.Blocks(title="flashvsr", analytics_enabled=False, delete_cache=(600, 3600)) as self.blocks:
            self._lay_out()
            self._connect()

    def _lay_out(self) -> None:
        self.selected = gr.State(0)
        self.point = gr.State((0.5, 0.5))
        self.timer = gr.Timer(UPDATE_SECONDS)
        gr.Markdown("# flashvsr\nMakes videos and pictures larger, on this computer.", elem_id="title")
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                self.drop = gr.File(
                    label="Drop videos or pictures here", file_count="multiple", height=150, elem_id="drop"
                )
                names = list(self._models.names)
                self.model = gr.Dropdown(names, value=names[0], label="Model", elem_id="model")
                self.detail = gr.Slider(0, 1, step=0.05, label="Detail", elem_id="detail", **self.detail_of(names[0]))
                self.size = gr.Dropdown(SIZES, value="4x", label="Size", elem_id="size")
                self.container = gr.Radio(["mp4", "mkv"], value="mp4", label="Video file", elem_id="container")
                with gr.Row():
                    self.start = gr.Button(
                        "Start", variant="primary", interactive=False, min_width=100, elem_id="start"
                    )
                    self.start_all = gr.Button("Start all", interactive=False, min_width=100, elem_id="start-all")
            with gr.Column(scale=5, min_width=420):
                self.listing = gr.HTML(table([], 0), js_on_load=ON_LOAD, css_template=STYLE, elem_id="files")
                with gr.Column(visible=False) as self.try_out:
                    self._lay_out_preview()

    def _lay_out_preview(self) -> None:
        gr.Markdown("### Try it on a part first\nClick on the picture to choose another part.")
        with gr.Row():
            with gr.Column(min_width=280):
                self.picture = gr.Image(
                    label="Before", format="png", interactive=False, buttons=[], height=250, elem_id="picture"
                )
            with gr.Column(min_width=280):
                choices = [(name.capitalize(), name) for name in PARTS]
                self.part = gr.Radio(choices, value="half", label="Part of the picture", elem_id="part")
                self.second = gr.Slider(0, 1, value=0, step=0.1, label="Second of the video", elem_id="second")
                with gr.Row():
                    self.one = gr.Button("One frame", variant="primary", min_width=100, elem_id="one-frame")
                    self.three = gr.Button(f"{PREVIEW_SECONDS:g} seconds", min_width=100, elem_id="three-seconds")
        self.slider = gr.ImageSlider(
            label="Before | after", format="png", interactive=False, buttons=["fullscreen"], elem_id="slider"
        )
        self.video = gr.HTML(visible=False, elem_id="video")

    def _connect(self) -> None:
        settings = [self.selected, self.model, self.size, self.container, self.detail]
        looks = [self.try_out, self.picture, self.second, self.three, self.start, self.point, self.slider, self.video]
        where = [self.selected, self.second, self.point, self.part]
        self.drop.upload(
            self._add, [self.drop, self.selected], [self.drop, self.selected, self.start_all, self.listing], **HIDDEN
        )
        self.listing.act(self._act, [self.selected], [self.selected, self.listing], **HIDDEN)
        self.selected.change(self._look, [self.selected, self.part], looks, **HIDDEN)
        self.model.input(lambda name: gr.update(**self.detail_of(name)), self.model, self.detail, **HIDDEN)
        self.start.click(self._start, settings, self.listing, **HIDDEN)
        self.start_all.click(self._start_all, settings, self.listing, **HIDDEN)
        self.timer.tick(self._list, self.selected, self.listing, **HIDDEN)
        self.blocks.load(self._list, self.selected, self.listing, **HIDDEN)
        gr.on([self.second.release, self.part.input], self._show, where, self.picture, **HIDDEN)
        self.picture.select(self._aim, where, [self.point, self.picture], **HIDDEN)
        for button, seconds in ((self.one, 0.0), (self.three, PREVIEW_SECONDS)):
            button.click(
                self._preview(seconds),
                [*where, self.model, self.size, self.detail],
                [self.slider, self.video],
                api_visibility="private",
                concurrency_limit=1,
                concurrency_id="preview",
                show_progress_on=self.slider,
            )

    def detail_of(self, model: str) -> dict[str, Any]:
        """How the slider looks for a model."""
        there = self._models.has_detail(model)
        info = "0: only what the file shows. 1: all that the model adds."
        return {
            "value": 1,
            "interactive": there,
            "info": info if there else f"{model} has no diffusion part: there is nothing to turn down.",
        }

    def _file(self, number: int) -> QueuedFile | None:
        try:
            return self._queue.file(int(number))
        except KeyError:
            return None

    def _list(self, selected: int) -> str:
        return table(self._queue.files(), selected)

    def _add(self, paths: list[str] | None, selected: int) -> tuple[Any, ...]:
        added = []
        for path in paths or []:
            try:
                added.append(self._queue.add(Path(path)).number)
            except VideoError as error:
                gr.Warning(explain(error)[0], title="Not added", duration=None)
        selected = added[0] if added else selected
        return None, selected, gr.update(interactive=bool(self._queue.files())), self._list(selected)

    def _act(self, selected: int, event: gr.EventData) -> tuple[int, str]:
        """A click on a button of the list."""
        action, number = str(event.action), int(event.number)
        try:
            if action == "select":
                selected = number
            elif action == "stop":
                self._queue.stop(number)
            elif action == "resume":
                self._queue.start(number)
            elif action == "remove":
                self._queue.remove(number)
                selected = 0 if number == selected else selected
        except KeyError:
            gr.Warning("This file is not here any more.")
        except ValueError as error:
            gr.Warning(str(error))
        return selected, self._list(selected)

    def _start(self, selected: int, model: str, size: str, container: str, detail: float) -> str:
        return self._start_files([selected], Settings(model, size, container, detail), selected)

    def _start_all(self, selected: int, model: str, size: str, container: str, detail: float) -> str:
        ready = [file.number for file in self._queue.files() if file.state is State.READY]
        return self._start_files(ready, Settings(model, size, container, detail), selected)

    def _start_files(self, numbers: list[int], settings: Settings, selected: int) -> str:
        for number in numbers:
            try:
                self._queue.start(number, settings)
            except KeyError:
                gr.Warning("This file is not here any more.")
            except ValueError as error:
                gr.Warning(f"{self._queue.file(number).upload.name}: {error}", title="Not started", duration=None)
        return self._list(selected)

    def _look(self, selected: int, part: str) -> tuple[Any, ...]:
        """Show another file in the part below the list."""
        file = self._file(selected)
        if file is None:
            hidden = gr.update(visible=False)
            return hidden, None, gr.update(), gr.update(), gr.update(interactive=False), (0.5, 0.5), None, hidden
        seconds = file.upload.seconds or 0.0
        is_video = not file.upload.is_picture
        return (
            gr.update(visible=True),
            self._show(selected, 0.0, (0.5, 0.5), part),
            gr.update(value=0, maximum=max(round(seconds, 1), 0.1), visible=is_video),
            gr.update(visible=is_video),
            gr.update(interactive=True),
            (0.5, 0.5),
            None,
            gr.update(visible=False, value=""),
        )

    def _show(self, selected: int, second: float, point: tuple[float, float], part: str) -> Image | None:
        """The frame before, with a border around the part that a preview takes."""
        file = self._file(selected)
        if file is None:
            return None
        try:
            picture = read_frame(file.upload, second)
        except VideoError as error:
            raise gr.Error(explain(error)[0]) from error
        top, left, height, width = part_of(picture.height, picture.width, part, *point)
        line = max(2, picture.width // 200)
        box = (left, top, left + width - 1, top + height - 1)
        ImageDraw.Draw(picture).rectangle(box, outline=(20, 184, 166), width=line)
        return picture

    def _aim(
        self, selected: int, second: float, point: tuple[float, float], part: str, event: gr.SelectData
    ) -> tuple[tuple[float, float], Image | None]:
        file = self._file(selected)
        if file is not None:
            x, y = event.index
            point = (x / file.upload.width, y / file.upload.height)
        return point, self._show(selected, second, point, part)

    def _preview(self, seconds: float) -> Any:
        progress_bar = gr.Progress()

        def run(
            selected: int,
            second: float,
            point: tuple[float, float],
            part: str,
            model: str,
            size: str,
            detail: float,
            progress: gr.Progress = progress_bar,
        ) -> tuple[Any, Any]:
            file = self._file(selected)
            if file is None:
                raise gr.Error("Choose a file first.")
            self._previews += 1
            path = self._videos / f"{self._previews}.mp4"
            progress(0, desc="loading the model")
            try:
                result = preview(
                    file.upload,
                    with_detail(self._models.get(model), detail),
                    scale=Settings(model, size).target(file.upload)[0] / file.upload.height,
                    second=second,
                    seconds=seconds,
                    part=part_of(file.upload.height, file.upload.width, part, *point),
                    video=path if seconds else None,
                    progress=lambda done, total: progress((done, total), unit="frames", desc="upscaling"),
                )
            except Exception as error:  # whatever it is, the visitor is told
                raise gr.Error(explain(error)[0], duration=None) from error
            player = f'<video src="preview/{path.name}" controls loop muted autoplay playsinline></video>'
            shown = gr.update(visible=True, value=player) if result.video else gr.update(visible=False, value="")
            return (result.before, result.after), shown

        return run
