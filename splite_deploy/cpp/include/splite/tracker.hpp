// Follows one hand or person from frame to frame without a detector: the next box is where the keypoints were.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <numeric>
#include <optional>
#include <utility>

#include "error.hpp"
#include "estimator.hpp"

namespace splite {

struct FollowOptions {
  double margin = 0.05;       ///< by how much the tight box grows on each side, as a share of its longer side
  double min_score = 0.3;     ///< what the mean score has to reach, of a network without presence
  double min_presence = 0.5;  ///< what the presence has to reach, of one with it
};

/// The box in which to look in the next frame; none where the hand or person is lost.
inline std::optional<Box> next_box(const Pose& pose, int height, int width, const FollowOptions& options, const std::optional<std::pair<int, int>>& turn) {
  constexpr double kMinSidePx = 8.0, kMostSides = 16.0;
  const float mean = std::accumulate(pose.scores.begin(), pose.scores.end(), 0.0f) / static_cast<float>(pose.scores.size());
  const bool shown = pose.presence ? *pose.presence >= options.min_presence : mean >= options.min_score;
  double low[] = {pose.keypoints.at(0)[0], pose.keypoints[0][1]}, high[] = {low[0], low[1]};
  for (const auto& point : pose.keypoints) {
    for (std::size_t axis = 0; axis < 2; ++axis) low[axis] = std::min(low[axis], double{point[axis]}), high[axis] = std::max(high[axis], double{point[axis]});
  }
  const double side = std::max(high[0] - low[0], high[1] - low[1]);
  if (!(shown && side >= kMinSidePx && side <= kMostSides * std::max(height, width))) return std::nullopt;
  const double x = (low[0] + high[0]) / 2, y = (low[1] + high[1]) / 2;
  if (!(x >= 0 && y >= 0 && x < width && y < height)) return std::nullopt;
  const double grow = options.margin * side;
  Box box{low[0] - grow, low[1] - grow, high[0] + grow, high[1] + grow, std::nullopt};
  if (turn) box = box_around(pose, *turn, pose.angle_deg.value_or(0.0), options.margin);
  // Keypoints may lie on a line, of which a crop shows the surroundings
  const double cx = (box.x0 + box.x1) / 2, cy = (box.y0 + box.y1) / 2;
  const double w = std::max(box.x1 - box.x0, 1.0) / 2, h = std::max(box.y1 - box.y0, 1.0) / 2;
  return Box{cx - w, cy - h, cx + w, cy + h, box.angle_deg};
}

/// Follows one hand or person through the frames of a camera. Where their size changes it begins anew.
class BoxTracker {
 public:
  /// `start` is the box in which to look at first, and again whenever it is lost; none is the whole frame. Where crops
  /// are turned and it has no angle, that is found by two to six looks. Where these find nobody, two looks a frame
  /// follow until somebody is found: at each quarter in turn, and around the keypoints that this gives.
  explicit BoxTracker(Estimator& estimator, std::optional<Box> start = {}, const FollowOptions& options = {})
      : estimator_(estimator), start_(start), box_(start), options_(options) {
    if (estimator.model().keypoint_count() == 0) {
      throw UsageError("The model '" + estimator.model().name + "' finds boxes alone, and no keypoints that could be followed.", "Use a model with keypoints.");
    }
    const bool sensible = std::abs(options.margin) < 10 && options.min_score >= 0 && options.min_score <= 1 && options.min_presence >= 0 && options.min_presence <= 1;
    if (!sensible) throw UsageError("The margin or a least score is no sensible number.", "Scores and presence lie between 0 and 1.");
  }

  /// Finds the keypoints in the next frame.
  Pose operator()(const Image& frame, const std::optional<Camera>& camera = {}) {
    const std::pair<int, int> size{frame.height, frame.width};
    const bool known = !size_ || *size_ == size;
    const std::optional<Box> box = known ? box_ : start_;
    const std::size_t nobody_frames = known ? nobody_frames_ : 0;
    const bool at_angle = box && box->angle_deg;
    const auto& turn = estimator_.model().input.rotate_by;
    Pose pose = at_angle                       ? estimator_(frame, box, camera)
                : !turn || nobody_frames == 0 ? estimator_.at_any_angle(frame, box, camera)
                                              : at_quarter(frame, box, nobody_frames - 1, *turn, camera);
    const std::optional<Box> followed = next_box(pose, frame.height, frame.width, options_, turn);
    size_ = size;
    nobody_frames_ = !followed && !at_angle ? nobody_frames + 1 : 0;
    found_ = followed.has_value();
    box_ = followed ? followed : start_;
    return pose;
  }

  /// Whether the last frame showed a hand or person.
  bool found() const { return found_; }
  /// Where it looks in the next frame; none is the whole frame.
  const std::optional<Box>& box() const { return box_; }

 private:
  /// Looks at one quarter, and around what keypoints there are: a wide crop of somebody may look like nobody's.
  Pose at_quarter(const Image& frame, const std::optional<Box>& box, std::size_t number, std::pair<int, int> turn, const std::optional<Camera>& camera) {
    const Box start = check_box(box, frame.height, frame.width);
    Pose pose = estimator_(frame, box_at(start, kQuartersDeg[number % std::size(kQuartersDeg)]), camera);
    const Box around = box_around(pose, turn);
    return is_usable(around, frame.height, frame.width) ? estimator_(frame, around, camera) : pose;
  }

  Estimator& estimator_;
  std::optional<Box> start_, box_;
  FollowOptions options_;
  bool found_ = false;
  std::size_t nobody_frames_ = 0;  // in which `start_` was looked into at all angles, or at one quarter
  std::optional<std::pair<int, int>> size_;
};

}  // namespace splite
