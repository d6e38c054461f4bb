"""What one would write first: lip gap of every frame against loudness. A peer for peers.py.

    python benchmarks/peers.py FILE... --peer 'naive=python benchmarks/naive.py {file}'

Every frame becomes RGB and goes through mediapipe's face mesh; the gap between the lips and the
sound's loudness, both at 25 a second, are correlated at shifts of up to 0.6 s. It prints the best
shift (ms, positive = the sound leads), and how far it stands above the others.
"""

from __future__ import annotations

import sys

import mediapipe as mp
import numpy as np

from avsync.media import iter_frames, read_audio

MOST = 15


def main(path: str) -> None:
    """Print the answer for one file."""
    mesh = mp.solutions.face_mesh.FaceMesh(static_image_mode=False, max_num_faces=1)
    times, gaps = [], []
    for frame in iter_frames(path):
        found = mesh.process(frame.image).multi_face_landmarks
        times.append(frame.pts_seconds)
        gap = np.nan
        if found:
            points = found[0].landmark
            gap = abs(points[14].y - points[13].y) / abs(points[152].y - points[10].y)
        gaps.append(gap)
    sound = read_audio(path)
    ticks = np.arange(round(25 * max(times)))
    known = np.isfinite(gaps)
    if known.sum() < 50:
        print("no face")
        return
    lips = np.interp(ticks / 25, np.array(times)[known], np.array(gaps)[known])
    step = sound.sample_rate // 25
    loud = np.array(
        [
            np.sqrt(np.mean(np.square(sound.samples[max(0, i) : max(1, i + step)])))
            for i in (ticks * step - round(sound.start_s * sound.sample_rate)).tolist()
        ]
    )
    lips, loud = lips - lips.mean(), np.nan_to_num(loud - np.nanmean(loud))
    scores = [
        float(np.corrcoef(lips[MOST:-MOST], np.roll(loud, shift)[MOST:-MOST])[0, 1])
        for shift in range(-MOST, MOST + 1)
    ]
    best = int(np.argmax(scores))
    above = (scores[best] - np.mean(scores)) / max(float(np.std(scores)), 1e-9)
    print(f"{40 * (best - MOST):+d} ms, {above:.1f} standard deviations above the others")


if __name__ == "__main__":
    main(sys.argv[1])
