"""Video files through the command: key frames as FFmpeg decodes them, the file back as it was."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import xarray as xr

EVERY, FRAMES = 5, 12
CODECS = {
    "a.mp4": ("libx264", "yuv420p"),
    "a.mkv": ("libx265", "yuv420p10le"),
    "a.avi": ("mpeg4", "yuv420p"),
    "a.webm": ("libvpx-vp9", "yuv420p"),
    "a.mov": ("mjpeg", "yuvj420p"),
}
SLOW = ("a.avi", "a.webm", "a.mov")


def write(path: Path) -> Path:
    """Twelve frames, every fifth a key frame (all of MJPEG)."""
    codec, pixels = CODECS[path.name]
    y, x = np.indices((48, 64))
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        stream.gop_size = EVERY
        stream.codec_context.options = {"bf": "2"} if codec == "libx264" else {}
        for number in range(FRAMES):
            colours = np.stack([4 * x, 5 * y, 20 * number + 0 * x], axis=-1).astype("u1")
            frame = av.VideoFrame.from_ndarray(colours, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def key_frames(path: Path) -> tuple[np.ndarray, list[float]]:
    """Key frames by decoding all frames, (sample, t, y, x), and their times."""
    with av.open(str(path)) as container:
        found = [frame for frame in container.decode(video=0) if frame.key_frame]
        start = (container.streams.video[0].start_time or 0) * container.streams.video[0].time_base
        form = "rgb48le" if "10" in container.streams.video[0].pix_fmt else "rgb24"
        pixels = np.stack([frame.to_ndarray(format=form) for frame in found])
    return pixels.transpose(3, 0, 1, 2), [float(frame.time - start) for frame in found]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in CODECS]
)
def test_key_frames_are_shown_and_the_file_comes_back(name: str, tmp_path: Path, run) -> None:
    source = write(tmp_path / name)
    mode = "lossy" if name == "a.avi" else "lossless"
    outcome = run("archive", source, tmp_path / "a.psc.zarr", "--mode", mode)
    assert outcome.code == 0, outcome.err
    wanted, times = key_frames(source)
    with xr.open_dataset(tmp_path / "a.psc.zarr", engine="psc") as view:
        assert view["key_frames"].dims == ("sample", "t", "y", "x")
        np.testing.assert_array_equal(view["key_frames"], wanted)
        np.testing.assert_allclose(view["t"], times, atol=1e-6)
        np.testing.assert_array_equal(view["key_frames"][1, -1, 5:9], wanted[1, -1, 5:9])
    assert run("restore", tmp_path / "a.psc.zarr", tmp_path / "out").code == 0
    assert (tmp_path / "out" / name).read_bytes() == source.read_bytes()
    refused = run("restore", tmp_path / "a.psc.zarr", tmp_path / "part", "--roi", "t=0:1")
    assert refused.code != 0 and "bad-region" in refused.err


def test_bad_videos_are_named(tmp_path: Path, run) -> None:
    data = write(tmp_path / "a.mp4").read_bytes()
    (tmp_path / "b.mp4").write_bytes(data)
    cases = {"not-video": b"no video at all" * 50, "cut": data[: len(data) // 2], "empty": b""}
    cases["list"] = b"ffconcat version 1.0\nfile 'b.mp4'\n"  # FFmpeg reads the other file
    for name, content in cases.items():
        (tmp_path / "a.mp4").write_bytes(content)
        outcome = run("archive", tmp_path / "a.mp4", tmp_path / f"{name}.psc.zarr")
        assert outcome.code != 0 and "error[not-video]" in outcome.err, name
        assert not (tmp_path / f"{name}.psc.zarr").exists()


def test_a_key_frame_that_cannot_be_decoded_is_damage(tmp_path: Path, run) -> None:
    source = write(tmp_path / "a.mp4")
    with av.open(str(source)) as container:
        place = next(p.pos for p in container.demux(video=0) if p.is_keyframe and p.pts)
    data = bytearray(source.read_bytes())
    data[place : place + 40] = bytes(40)
    source.write_bytes(bytes(data))
    outcome = run("archive", source, tmp_path / "a.psc.zarr")
    assert outcome.code != 0 and "error[damaged]" in outcome.err


def test_sound_alone_is_kept_as_it_is(tmp_path: Path, run) -> None:
    source = tmp_path / "a.mp4"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), "f4"), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert run("archive", source, tmp_path / "a.psc.zarr").code == 0
    assert run("restore", tmp_path / "a.psc.zarr", tmp_path / "out").code == 0
    assert (tmp_path / "out/a.mp4").read_bytes() == source.read_bytes()
