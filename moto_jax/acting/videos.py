"""How an episode looks: an mp4 or a GIF that browsers play, and a strip of frames."""

import contextlib
import logging
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import imageio.v3
import imageio_ffmpeg
import numpy as np

from moto_jax.acting.evaluation import EvaluationResult
from moto_jax.data.files import write_atomically
from moto_jax.data.rows import Label, first_rows

# The kitchen's control step is 0.08 s: at this rate a video runs in real time.
REAL_TIME_FPS = 12.5

# What mp4 is coded with: H.264, or where an ffmpeg has no such codec what all have.
_MP4_CODECS = (
    ("-c:v", "libx264", "-crf", "18"),
    ("-c:v", "mpeg4", "-q:v", "3"),
)

# One palette for the whole GIF, and no dither, which would move where nothing does.
_GIF_PALETTE = "split[a][b];[a]palettegen[palette];[b][palette]paletteuse=dither=none"

_log = logging.getLogger(__name__)


def write_videos(
    directory: Path,
    name: str,
    result: EvaluationResult,
    label: Label,
    gif: bool = False,
) -> None:
    """Writes NAME-best.mp4, its strip NAME-best.png, and NAME-worst.mp4.

    What cannot be written is left out with a warning: nobody's numbers depend on it.

    Args:
      directory: made where missing.
      name: of the files.
      result: whose best and worst episode are shown.
      label: the world's.
      gif: whether to write NAME-best.gif too, of the frames that the strip is of.
    """
    best = result.best
    # The part in which things happen, to the last event and a second more.
    happens = first_rows(label(best).events).max() + 13
    shown = best.image[: happens + 1]
    with _left_out_by_errors(directory):
        directory.mkdir(exist_ok=True)
    with _left_out_by_errors(directory / f"{name}-best.mp4") as path:
        write_video(path, best.image)
    with _left_out_by_errors(directory / f"{name}-best.png") as path:
        write_strip(path, shown)
    if gif:
        with _left_out_by_errors(directory / f"{name}-best.gif") as path:
            write_video(path, shown)
    with _left_out_by_errors(directory / f"{name}-worst.mp4") as path:
        write_video(path, result.worst.image)


@contextlib.contextmanager
def _left_out_by_errors(path: Path) -> Iterator[Path]:
    try:
        yield path
    except OSError as error:
        _log.warning("%s is left out: %s", path, error)


def write_video(
    path: str | os.PathLike[str],
    frames: np.ndarray,
    fps: float = REAL_TIME_FPS,
    scale: int = 4,
) -> None:
    """Writes an H.264 mp4 that browsers play, or a GIF, whole or not at all.

    Where ffmpeg cannot do H.264 it is MPEG-4, which players know and few browsers do.

    Args:
      path: of the file, ending in `.mp4` or `.gif`; its directory exists.
      frames: uint8 [rows, height, width, 3].
      fps: frames a second.
      scale: each pixel becomes a square of this many pixels a side.

    Raises:
      ValueError: for frames that cannot be a video in this format.
      OSError: if the file cannot be written.
    """
    path = Path(path)
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
        raise ValueError(
            f"frames are {frames.dtype}{list(frames.shape)} instead of "
            "uint8[rows, height, width, 3]"
        )
    height, width = frames.shape[1:3]
    # The mp4 format halves the resolution of its colour planes.
    odd = path.suffix == ".mp4" and (scale * height % 2 or scale * width % 2)
    if not len(frames) or odd:
        raise ValueError(
            f"cannot write {len(frames)} frames of {scale * width}x{scale * height} "
            f"pixels to {path.name}: a video needs a frame, and an .mp4 even sizes"
        )
    try:
        # The program comes with imageio-ffmpeg, whose own writer forks this process,
        # which jax's threads may not survive, and does not say when the program failed.
        program = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise OSError(f"there is no ffmpeg to write {path} with: {error}") from None
    pictures = [
        *(program, "-y", "-loglevel", "error"),
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"),
        *("-framerate", str(fps), "-i", "-"),
    ]
    commands = [[*pictures, *coding] for coding in _codings(path.name, scale)]
    _encode(path, frames.tobytes(), commands)


def _encode(path: Path, pixels: bytes, commands: Sequence[Sequence[str]]) -> None:
    """Writes a video by the first command that can, each but for the file's name.

    Raises:
      OSError: if none can; quotes them.
    """
    # ffmpeg knows the format by the name's ending.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    reasons: list[str] = []
    try:
        for command in commands:
            done = subprocess.run(
                [*command, str(temporary)], input=pixels, capture_output=True
            )
            if not done.returncode:
                break
            reasons += done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        else:
            raise OSError(
                f"ffmpeg cannot write {path}: {'; '.join(dict.fromkeys(reasons))}; "
                "look at the disk's space, the directory's rights and the codecs of "
                f"{commands[0][0]}"
            )
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _codings(name: str, scale: int) -> list[tuple[str, ...]]:
    """Returns what ffmpeg may make of frames, by the ending of the file's name."""
    enlarge = f"scale=iw*{scale}:ih*{scale}:flags=neighbor"
    if name.endswith(".gif"):
        return [("-vf", f"{enlarge},{_GIF_PALETTE}")]
    if name.endswith(".mp4"):
        ending = ("-pix_fmt", "yuv420p", "-movflags", "+faststart")
        return [("-vf", enlarge, *codec, *ending) for codec in _MP4_CODECS]
    raise ValueError(f"cannot write a video to {name}: use .mp4 or .gif")


def write_strip(
    path: str | os.PathLike[str],
    frames: np.ndarray,
    columns: int = 4,
    rows: int = 2,
    scale: int = 3,
) -> None:
    """Writes a PNG of evenly spaced frames, the first and the last among them.

    Args:
      path: of the file, ending in `.png`; its directory exists.
      frames: uint8 [number, height, width, 3].
      columns: frames side by side; read row by row.
      rows: of frames.
      scale: each pixel becomes a square of this many pixels a side.
    """
    chosen = np.linspace(0, len(frames) - 1, columns * rows).round().astype(int)
    large = frames[chosen].repeat(scale, axis=1).repeat(scale, axis=2)
    # A white line between neighbours.
    large = np.pad(large, ((0, 0), (0, scale), (0, scale), (0, 0)), constant_values=255)
    grid = large.reshape(rows, columns, *large.shape[1:]).transpose(0, 2, 1, 3, 4)
    picture = grid.reshape(rows * large.shape[1], columns * large.shape[2], 3)
    write_atomically(
        Path(path), imageio.v3.imwrite("<bytes>", picture, extension=".png")
    )
