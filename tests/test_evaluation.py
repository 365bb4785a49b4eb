import functools
import subprocess

import imageio.v3
import imageio_ffmpeg
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moto_jax import statistics
from moto_jax.acting import evaluation, videos
from moto_jax.acting import progress as progress_module
from moto_jax.acting.collection import PoolStage
from moto_jax.acting.progress import remaining_time
from moto_jax.acting.worker_pool import WorkerPool
from moto_jax.data.episodes import Episode
from moto_jax.types import Policy
from moto_jax.worlds.kitchen import tasks
from moto_jax.worlds.kitchen.labels import make_label
from tests.fake_envs import NUM_ACTIONS, CountingEnv


@pytest.fixture(scope="module")
def evaluate():
    """Evaluates in `CountingEnv`: 3 + seed % 3 steps, object j in its goal in row j."""

    def act(params, carry, image, is_first, key):
        return jnp.zeros((len(image), NUM_ACTIONS)), carry

    with WorkerPool(functools.partial(CountingEnv, length=3), 2) as pool:
        play = PoolStage(pool).player(Policy(initial=lambda n: (), act=act))
        key = jax.random.key(0)[None]
        yield lambda seeds, task: evaluation.evaluate(
            play, None, key, seeds, tuple(task), make_label(task)
        )


def test_counts_by_hand(evaluate):
    # Rows 0..3, 0..4, 0..5, 0..3: three or four or five steps by the seed.
    result = evaluate([0, 1, 2, 3], [tasks.OBJECTS[j] for j in (4, 1, 5)])
    np.testing.assert_array_equal(
        result.reached, [[0, 1, 0], [1, 1, 0], [1, 1, 1], [0, 1, 0]]
    )
    # Only the object whose number is that of the last row is there at the end.
    np.testing.assert_array_equal(
        result.at_end, [[0, 0, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]]
    )
    np.testing.assert_array_equal(result.returns, [1, 2, 3, 1])
    assert (result.best.image[0, 0, 0, 0], result.worst.image[0, 0, 0, 0]) == (2, 0)

    summary = result.summary()
    assert summary["episodes"] == 4
    assert summary["objects"] == 7 / 4
    assert summary["objects_low"] < 7 / 4 < summary["objects_high"]
    assert summary["objects_at_end"] == 2 / 4
    assert summary["success"] == 1 / 4
    low, high = statistics.wilson_interval(1, 4)
    assert (summary["success_low"], summary["success_high"]) == (low, high)
    assert summary["success_at_end"] == 0
    assert summary["return"] == 7 / 4
    assert summary[f"reached/{tasks.OBJECTS[4]}"] == 2 / 4
    assert summary[f"reached/{tasks.OBJECTS[1]}"] == 1
    assert summary[f"reached/{tasks.OBJECTS[5]}"] == 1 / 4
    assert all(type(value) is float for value in summary.values())


def test_success_at_the_end_and_row_zero(evaluate):
    """An object in its goal at reset counts as reached and earns no reward."""
    result = evaluate([0, 1], [tasks.OBJECTS[3]])
    assert result.summary()["success_at_end"] == 1 / 2
    at_reset = evaluate([0], [tasks.OBJECTS[0]])
    assert at_reset.reached.tolist() == [[True]]
    assert at_reset.returns.tolist() == [0]


def test_the_first_of_equal_episodes_is_the_best_and_the_worst(evaluate):
    result = evaluate([3, 4, 1, 0], [tasks.OBJECTS[4]])
    assert result.best.image[0, 0, 0, 0] == 4
    assert result.worst.image[0, 0, 0, 0] == 3


def test_of_equally_many_objects_the_return_decides():
    """One object in every episode, for 2, 3, 1, 3 and 1 of three steps."""
    steps = [2, 3, 1, 3, 1]

    def play(params, keys, plays):
        for number, count in enumerate(steps):
            in_goal = np.zeros((4, len(tasks.OBJECTS)), np.bool_)
            in_goal[4 - count :, 0] = True
            yield Episode(
                image=np.full((4, 2, 2, 3), number, np.uint8),
                action=np.zeros((3, NUM_ACTIONS), np.float32),
                objects_in_goal=in_goal,
                qpos=np.zeros((4, 30), np.float32),
            )

    key = jax.random.key(0)[None]
    task = (tasks.OBJECTS[0],)
    label = make_label(task)
    result = evaluation.evaluate(play, None, key, range(5), task, label)
    np.testing.assert_array_equal(result.returns, steps)
    assert (result.best.image[0, 0, 0, 0], result.worst.image[0, 0, 0, 0]) == (1, 2)


def test_best_and_worst_episode_lie_beside_each_other(evaluate, tmp_path, monkeypatch):
    written = {}
    monkeypatch.setattr(
        videos,
        "write_video",
        lambda path, frames: written.update({path.name: frames}),
    )
    result = evaluate([3, 4, 1, 0], [tasks.OBJECTS[4]])
    label = make_label(result.events)
    videos.write_videos(tmp_path / "videos", "000007", result, label)
    names = ["000007-best.mp4", "000007-worst.mp4"]
    assert sorted(written) == names
    assert [written[name][0, 0, 0, 0] for name in names] == [4, 3]
    assert [path.name for path in (tmp_path / "videos").iterdir()] == [
        "000007-best.png"
    ]


def test_the_strip_ends_a_second_after_the_last_event(tmp_path, monkeypatch):
    strips = []
    monkeypatch.setattr(videos, "write_video", lambda path, frames: None)
    monkeypatch.setattr(
        videos, "write_strip", lambda path, frames: strips.append(frames)
    )
    in_goal = np.zeros((40, len(tasks.OBJECTS)), np.bool_)
    in_goal[3:, 0] = in_goal[9:, 1] = in_goal[30:, 2] = True
    episode = Episode(
        image=np.zeros((40, 2, 2, 3), np.uint8),
        action=np.zeros((39, NUM_ACTIONS), np.float32),
        objects_in_goal=in_goal,
    )
    # Of the third object nobody asks.
    task = tasks.OBJECTS[:2]
    label, key = make_label(task), jax.random.key(0)[None]
    result = evaluation.evaluate(
        lambda params, keys, plays: iter([episode]), None, key, [0], task, label
    )
    videos.write_videos(tmp_path / "videos", "1", result, label)
    assert [len(frames) for frames in strips] == [9 + 13 + 1]
    shown = {}
    monkeypatch.setattr(
        videos, "write_video", lambda path, frames: shown.update({path.name: frames})
    )
    videos.write_videos(tmp_path / "videos", "1", result, label, gif=True)
    assert len(shown["1-best.gif"]) == 9 + 13 + 1 and len(shown["1-best.mp4"]) == 40


def test_bad_arguments(evaluate):
    with pytest.raises(ValueError, match="no environment seed"):
        evaluate([], tasks.TASKS["mixed"])


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # Wilson's formula with z = 1.96 by hand: 5 of 10 gives 0.5 +- 0.2634, and 0 of
        # n gives z^2 / (n + z^2) above.
        (5, 10, 0.2366, 0.7634),
        (0, 20, 0.0, 3.8415 / 23.8415),
        (20, 20, 20 / 23.8415, 1.0),
        (1, 1, 1 / 4.8415, 1.0),
    ],
)
def test_wilson_interval(successes, trials, low, high):
    np.testing.assert_allclose(
        statistics.wilson_interval(successes, trials), (low, high), atol=5e-5
    )


def test_wilson_interval_rejects_impossible_counts():
    for successes, trials in [(0, 0), (3, 2), (-1, 2)]:
        with pytest.raises(ValueError, match="no such rate"):
            statistics.wilson_interval(successes, trials)


def test_bootstrap_interval():
    values = np.random.default_rng(1).normal(2.0, 1.0, 400)
    low, high = statistics.bootstrap_interval(values)
    # The normal approximation is exact enough at 400 values.
    half_width = 1.96 * values.std() / 20
    np.testing.assert_allclose(
        (low, high), (values.mean() - half_width, values.mean() + half_width), atol=0.01
    )
    assert statistics.bootstrap_interval(values) == (low, high)
    assert statistics.bootstrap_interval(np.ones(3)) == (1.0, 1.0)


def decoded(path):
    """What ffmpeg says of a video, and its pixels in a row."""
    program = imageio_ffmpeg.get_ffmpeg_exe()
    command = [program, "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    source = done.stderr.decode().partition("Output")[0]
    return source, np.frombuffer(done.stdout, np.uint8)


def test_video_holds_the_frames_enlarged_in_real_time(tmp_path):
    frames = np.zeros((25, 6, 8, 3), np.uint8)
    frames[:, :3] = 200
    frames[12:, :, 4:] = 90
    path = tmp_path / "episode.mp4"
    videos.write_video(path, frames)
    assert [entry.name for entry in tmp_path.iterdir()] == ["episode.mp4"]

    source, read = decoded(path)
    for fact in ("h264", "yuv420p", "32x24", "12.50 fps", "00:00:02.00"):
        assert fact in source
    read = read.reshape(25, 24, 32, 3)
    # Lossy coding moves grey levels a little.
    error = read.astype(int) - frames.repeat(4, axis=1).repeat(4, axis=2)
    assert np.abs(error).mean() < 3


def test_a_gif_holds_the_same_frames_and_goes_on_for_ever(tmp_path):
    frames = np.zeros((25, 5, 7, 3), np.uint8)
    frames[:, :3] = 200
    frames[12:, :, 4:, 0] = 90
    path = tmp_path / "episode.gif"
    videos.write_video(path, frames, scale=3)
    assert [entry.name for entry in tmp_path.iterdir()] == ["episode.gif"]
    read = imageio.v3.imread(path)
    # Of so few colours each has its own.
    np.testing.assert_array_equal(read, frames.repeat(3, axis=1).repeat(3, axis=2))
    about = imageio.v3.immeta(path)
    assert about["duration"] == 80 and about["loop"] == 0


@pytest.mark.parametrize(
    ("frames", "name", "message"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), "a.mp4", "float32"),
        (np.zeros((4, 4, 3), np.uint8), "a.mp4", r"uint8\[4, 4, 3\]"),
        (np.zeros((0, 4, 4, 3), np.uint8), "a.mp4", "0 frames"),
        (np.zeros((2, 5, 4, 3), np.uint8), "a.mp4", "4x5"),
        (np.zeros((0, 5, 4, 3), np.uint8), "a.gif", "0 frames"),
        (np.zeros((2, 4, 4, 3), np.uint8), "a.avi", "a.avi: use .mp4 or .gif"),
    ],
)
def test_frames_that_are_no_video(frames, name, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        videos.write_video(tmp_path / name, frames, scale=1)
    assert not list(tmp_path.iterdir())


def test_a_video_that_cannot_be_written_leaves_nothing(tmp_path):
    path = tmp_path / "episode.mp4"
    path.mkdir()
    frames = np.zeros((2, 4, 4, 3), np.uint8)
    with pytest.raises(OSError):
        videos.write_video(path, frames)
    assert [entry.name for entry in tmp_path.iterdir()] == ["episode.mp4"]
    with pytest.raises(OSError, match="ffmpeg cannot write .*No such file"):
        videos.write_video(tmp_path / "missing" / "episode.mp4", frames)


def ffmpeg(tmp_path, monkeypatch, line):
    """Puts a program in the place of ffmpeg, which is its $FFMPEG."""
    program = tmp_path / "ffmpeg"
    real = imageio_ffmpeg.get_ffmpeg_exe()
    program.write_text(f"#!/bin/sh\nFFMPEG={real}\n{line}\n")
    program.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))


def test_an_ffmpeg_without_h264_takes_another_codec(tmp_path, monkeypatch):
    refuse = 'case "$*" in *libx264*) echo Unknown encoder >&2; exit 8;; esac'
    ffmpeg(tmp_path, monkeypatch, f'{refuse}\nexec $FFMPEG "$@"')
    path = tmp_path / "episode.mp4"
    videos.write_video(path, np.full((25, 6, 8, 3), 90, np.uint8))
    source, read = decoded(path)
    assert "mpeg4" in source and "yuv420p" in source
    read = read.reshape(25, 24, 32, 3)
    assert abs(read.mean() - 90) < 3


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("echo Unknown encoder >&2; exit 8", "Unknown encoder; look at"),
        ("cat > /dev/null; echo No space left >&2; exit 1", "No space left; look at"),
        (None, "No such file or directory"),
    ],
)
def test_videos_that_cannot_be_written_are_left_out(
    evaluate, tmp_path, monkeypatch, caplog, line, reason
):
    if line:
        ffmpeg(tmp_path, monkeypatch, line)
    else:
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "ffmpeg"))
    result = evaluate([3, 0], [tasks.OBJECTS[4]])
    label = make_label(result.events)
    videos.write_videos(tmp_path / "videos", "1", result, label, gif=True)
    assert [path.name for path in (tmp_path / "videos").iterdir()] == ["1-best.png"]
    assert [reason in message for message in caplog.messages] == [True] * 3
    assert "1-best.mp4 is left out" in caplog.messages[0]


def test_a_directory_of_videos_that_cannot_be_made_costs_no_result(
    evaluate, tmp_path, caplog
):
    (tmp_path / "videos").touch()
    result = evaluate([3, 0], [tasks.OBJECTS[4]])
    label = make_label(result.events)
    videos.write_videos(tmp_path / "videos", "1", result, label)
    assert "videos is left out" in caplog.messages[0]


def test_a_strip_shows_evenly_spaced_frames_in_reading_order(tmp_path):
    grey = np.arange(0, 220, 20, dtype=np.uint8)
    frames = np.broadcast_to(grey[:, None, None, None], (11, 2, 4, 3))
    path = tmp_path / "strip.png"
    videos.write_strip(path, frames, columns=3, rows=2, scale=1)
    picture = imageio.v3.imread(path)
    # Frames of 2 x 4 pixels, each with a white line below and to the right.
    assert picture.shape == (2 * 3, 3 * 5, 3)
    assert picture[0::3, 0::5, 0].tolist() == [[0, 40, 80], [120, 160, 200]]
    assert (picture[2::3] == 255).all() and (picture[:, 4::5] == 255).all()


def test_the_time_that_is_left_is_at_the_pace_so_far():
    assert remaining_time(10.0, 1, 4) == "0:00:30"
    assert remaining_time(90.0, 3, 3) == "0:00:00"


def test_progress_without_a_terminal_is_told_each_tenth_at_todays_pace(
    monkeypatch, capsys
):
    """Twenty of forty are there from before; each new one takes three seconds."""
    now = 100.0
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now)
    with progress_module.progress_bar("demonstrations") as progress:
        progress(0, 40)
    with progress_module.progress_bar("demonstrations") as progress:
        for done in range(20, 41):
            progress(done, 40)
            now += 3
    assert capsys.readouterr().err.splitlines() == [
        "demonstrations: 0 of 40",
        "demonstrations: 20 of 40",
        "demonstrations: 24 of 40, remaining 0:00:48",
        "demonstrations: 28 of 40, remaining 0:00:36",
        "demonstrations: 32 of 40, remaining 0:00:24",
        "demonstrations: 36 of 40, remaining 0:00:12",
        "demonstrations: 40 of 40, remaining 0:00:00",
    ]
