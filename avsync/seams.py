"""What looks at one file gave, put together: a face that is seen in several stays one face."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from avsync.offsets import Evidence
from avsync.result import Turn
from avsync.speakers import Voices
from avsync.verdict import TrackSight

__all__ = ["NOBODY", "Look", "continued", "sights_of", "voices_of"]

#: Boxes on both sides of a seam that overlap by this much (of the smaller) are one face.
SAME_FACE = 0.5


@dataclass(frozen=True, slots=True)
class Look:
    """What one stretch gave; ``evidence`` None where no face was seen, ``offset_ms`` None where
    the stretch by itself carries none."""

    start_s: float
    end_s: float
    evidence: Evidence | None
    sights: list[TrackSight]
    speech_s: float
    offset_ms: float | None
    voices: Voices

    @property
    def middle_s(self) -> float:
        """Its middle, s."""
        return (self.start_s + self.end_s) / 2


NOBODY = Voices((), {}, {})


def continued(before: Look, after: Look) -> Look:
    """``after`` with the numbers of the faces that were there at the end of ``before``."""
    if after.evidence is None:
        return after
    names: dict[int, int] = {}
    for sight in after.sights:
        for old in before.sights:
            met = old.end_s >= before.end_s and sight.start_s <= after.start_s
            same = _shared(old.box, sight.box) > SAME_FACE
            if met and same and old.id not in names.values():
                names[sight.id] = old.id
                break
    voices = after.voices
    return replace(
        after,
        evidence=after.evidence.renamed(names),
        sights=[replace(s, id=names.get(s.id, s.id)) for s in after.sights],
        voices=Voices(
            tuple(
                t.model_copy(
                    update={"track": None if t.track is None else names.get(t.track, t.track)}
                )
                for t in voices.turns
            ),
            {names.get(i, i): v for i, v in voices.speaking.items()},
            {names.get(i, i): v for i, v in voices.share.items()},
        ),
    )


def sights_of(looks: Sequence[Look]) -> list[TrackSight]:
    """The faces of all looks, each once."""
    sights: dict[int, TrackSight] = {}
    for look in looks:
        for s in look.sights:
            sights[s.id] = _both(sights[s.id], s) if s.id in sights else s
    return list(sights.values())


def voices_of(looks: Sequence[Look]) -> Voices:
    """Who speaks when in all looks; a face in several of them speaks if it does in one."""
    turns: list[Turn] = []
    speaking: dict[int, float] = {}
    share: dict[int, float] = {}
    total = sum(k.speech_s for k in looks if k.offset_ms is not None)
    for look in sorted(looks, key=lambda k: k.start_s):
        turns += look.voices.turns
        for i, value in look.voices.speaking.items():
            speaking[i] = max(value, speaking.get(i, 0.0))
        for i, value in look.voices.share.items():
            share[i] = share.get(i, 0.0) + value * look.speech_s / max(total, 1e-6)
    return Voices(tuple(turns), speaking, share)


def _shared(a: Sequence[float], b: Sequence[float]) -> float:
    """Common area of two boxes (x0 y0 x1 y1) as a share of the smaller one."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
    return max(0.0, width) * max(0.0, height) / max(smaller, 1.0)


def _both(a: TrackSight, b: TrackSight) -> TrackSight:
    """One face seen in two pieces."""
    share = b.seen_s / max(a.seen_s + b.seen_s, 1e-6)
    mix = [x + share * (y - x) for x, y in zip(a.box, b.box, strict=True)]
    return replace(
        a,
        end_s=b.end_s,
        face_px=a.face_px + share * (b.face_px - a.face_px),
        box=tuple(mix),
        mouth_motion=max(a.mouth_motion, b.mouth_motion),
        seen_s=a.seen_s + b.seen_s,
    )
