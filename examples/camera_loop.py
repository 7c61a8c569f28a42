"""Follows one hand or person in a camera or a video, and tells where its keypoints are.

python examples/camera_loop.py hand.splite 0 --box 440,160,760,560
python examples/camera_loop.py hand.splite clip.mp4 --box 440,160,760,560 --preview overlay.png

SOURCE is a USB camera by its number, a Jetson's (csi://0), a network camera (rtsp://...) or a video. --box is where to
look first, x0,y0,x1,y1 in pixels; the whole frame without it. The picture of --preview is written anew every second.
"""

from __future__ import annotations

import argparse
import time

import cv2

from splite_deploy import BoxTracker, PoseEstimator, SpliteError, open_camera


def main() -> None:
    """Runs until the video ends, or Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("source")
    parser.add_argument("--box", help="x0,y0,x1,y1")
    parser.add_argument("--keypoint", default="index_tip", help="which one to print, by its name")
    parser.add_argument("--preview", help="a picture to write, with the skeleton")
    given = parser.parse_args()
    start = [float(part) for part in given.box.split(",")] if given.box else None
    shown_s = 0.0
    with PoseEstimator.open(given.bundle) as estimator, open_camera(given.source) as camera:
        names = estimator.spec.skeleton.keypoint_names
        index = names.index(given.keypoint) if given.keypoint in names else 0
        track = BoxTracker(estimator, start=start)
        for frame in camera:
            pose = track(frame)
            if not track.found:
                print("lost", flush=True)
                continue
            x, y = pose.keypoints[index]
            print(f"{names[index]} {x:.1f} {y:.1f} score {pose.scores[index]:.2f}", flush=True)
            if given.preview and time.monotonic() - shown_s > 1:
                cv2.imwrite(given.preview, pose.plot(frame))
                shown_s = time.monotonic()


if __name__ == "__main__":
    try:
        main()
    except SpliteError as err:  # says what happened, and what to do
        raise SystemExit(f"{err.message}\n{err.hint}") from err
    except KeyboardInterrupt:
        pass
