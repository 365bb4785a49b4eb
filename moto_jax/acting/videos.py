"""How an episode looks: an mp4 or a GIF that browsers play, and a strip of frames."""

import os
import subprocess
from pathlib import Path

import imageio.v3
import imageio_ffmpeg
import numpy as np

from moto_jax.acting.evaluation import EvaluationResult
from moto_jax.data.files import write_atomically
from moto_jax.data.rows import Label, first_rows

# The kitchen's control step is 0.08 s: at this rate a video runs in real time.
REAL_TIME_FPS = 12.5


# One palette for the whole GIF, and no dither, which would move where nothing does.
_GIF_PALETTE = "split[a][b];[a]palettegen[palette];[b][palette]paletteuse=dither=none"


def write_videos(
    directory: Path,
    name: str,
    result: EvaluationResult,
    label: Label,
    gif: bool = False,
) -> None:
    """Writes NAME-best.mp4, its strip NAME-best.png, and NAME-worst.mp4.

    Args:
      directory: made where missing.
      name: of the files.
      result: whose best and worst episode are shown.
      label: the world's.
      gif: whether to write NAME-best.gif too, of the frames that the strip is of.
    """
    directory.mkdir(exist_ok=True)
    best = result.best
    write_video(directory / f"{name}-best.mp4", best.image)
    # The part in which things happen, to the last event and a second more.
    happens = first_rows(label(best).events).max() + 13
    shown = best.image[: happens + 1]
    write_strip(directory / f"{name}-best.png", shown)
    if gif:
        write_video(directory / f"{name}-best.gif", shown)
    write_video(directory / f"{name}-worst.mp4", result.worst.image)


def write_video(
    path: str | os.PathLike[str],
    frames: np.ndarray,
    fps: float = REAL_TIME_FPS,
    scale: int = 4,
) -> None:
    """Writes an H.264 mp4 that browsers play, or a GIF, whole or not at all.

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
    coding = _coding(path.name, scale)
    # The mp4 format halves the resolution of its colour planes.
    odd = path.suffix == ".mp4" and (scale * height % 2 or scale * width % 2)
    if not len(frames) or odd:
        raise ValueError(
            f"cannot write {len(frames)} frames of {scale * width}x{scale * height} "
            f"pixels to {path.name}: a video needs a frame, and an .mp4 even sizes"
        )
    # ffmpeg knows the format by the name's ending.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    # imageio-ffmpeg brings the program; its own writer forks this process, which jax's
    # threads may not survive, and does not say when the program failed.
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        *("-y", "-loglevel", "error"),
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"),
        *("-framerate", str(fps), "-i", "-"),
        *coding,
        str(temporary),
    ]
    try:
        done = subprocess.run(command, input=frames.tobytes(), capture_output=True)
        if done.returncode:
            reason = done.stderr.decode(errors="replace").strip().splitlines()
            raise OSError(
                f"ffmpeg cannot write {path}: {' '.join(reason[-1:])}; look at the "
                "disk's space and the directory's rights"
            )
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _coding(name: str, scale: int) -> tuple[str, ...]:
    """Returns what ffmpeg is to make of frames, by the ending of the file's name."""
    enlarge = f"scale=iw*{scale}:ih*{scale}:flags=neighbor"
    if name.endswith(".gif"):
        return ("-vf", f"{enlarge},{_GIF_PALETTE}")
    if name.endswith(".mp4"):
        return (
            *("-vf", enlarge, "-c:v", "libx264", "-pix_fmt", "yuv420p"),
            *("-crf", "18", "-movflags", "+faststart"),
        )
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
