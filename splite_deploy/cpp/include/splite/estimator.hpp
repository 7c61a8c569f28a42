// Image and box to poses: preprocess, run, decode, back to the image.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <iterator>
#include <limits>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "decode.hpp"
#include "error.hpp"
#include "lift.hpp"
#include "model.hpp"
#include "preprocess.hpp"
#include "session.hpp"

namespace splite {

/// Keypoints of one hand or person, in pixels of the image.
struct Pose {
  std::vector<std::array<float, 2>> keypoints;
  std::vector<float> scores;    ///< 0 to 1; the rule is the decoder's
  std::array<float, 4> box{};   ///< x0, y0, x1, y1: what was requested, or what the network found
  std::vector<Point3> keypoints_3d;  ///< x right, y down, z away from the camera; empty without
  std::string unit;             ///< of keypoints_3d: "palm" or "mm"
  std::string origin;           ///< of keypoints_3d: "root" or "camera"
  std::optional<float> box_score;   ///< where the network found the box
  std::optional<float> presence;    ///< how likely the crop shows a hand or person
  std::optional<float> handedness;  ///< how likely it is a right hand, in an image that is not mirrored
  std::optional<double> angle_deg;  ///< by how much the box was turned, where crops are turned
};

/// The angle of the line between two keypoints, from up; none where they fall together.
inline std::optional<double> angle_of(const Pose& pose, std::pair<int, int> turn) {
  const auto& from = pose.keypoints.at(static_cast<std::size_t>(turn.first));
  const auto& to = pose.keypoints.at(static_cast<std::size_t>(turn.second));
  const double dx = double{to[0]} - from[0], dy = double{to[1]} - from[1];
  if (!(std::hypot(dx, dy) > 1e-3)) return std::nullopt;
  return wrapped(std::atan2(dx, -dy) * 180.0 / 3.14159265358979323846);
}

/// The box of an angle about the middle of one without, around the same hand or person.
inline Box box_at(const Box& box, double angle_deg) {
  const auto [cosine, sine] = cosine_and_sine(angle_deg);
  const double x = (box.x0 + box.x1) / 2, y = (box.y0 + box.y1) / 2;
  const double w = (box.x1 - box.x0) / 2, h = (box.y1 - box.y0) / 2;
  const double across = std::hypot(cosine * w, sine * h), down = std::hypot(sine * w, cosine * h);
  return {x - across, y - down, x + across, y + down, wrapped(angle_deg)};
}

/// The box that just holds keypoints, turned so that the line between two of them points up in it.
inline Box box_around(const Pose& pose, std::pair<int, int> turn, double otherwise_deg = 0.0, double margin = 0.0) {
  const double angle_deg = angle_of(pose, turn).value_or(otherwise_deg);
  const auto [cosine, sine] = cosine_and_sine(angle_deg);
  const double infinity = std::numeric_limits<double>::infinity();
  double low[] = {infinity, infinity}, high[] = {-infinity, -infinity};
  for (const auto& [x, y] : pose.keypoints) {
    const double upright[] = {cosine * x + sine * y, -sine * x + cosine * y};
    for (int axis = 0; axis < 2; ++axis) low[axis] = std::min(low[axis], upright[axis]), high[axis] = std::max(high[axis], upright[axis]);
  }
  const double x = (low[0] + high[0]) / 2, y = (low[1] + high[1]) / 2;
  const double grow = margin * std::max(high[0] - low[0], high[1] - low[1]);
  const double w = (high[0] - low[0]) / 2 + grow, h = (high[1] - low[1]) / 2 + grow;
  const double cx = cosine * x - sine * y, cy = sine * x + cosine * y;
  return {cx - w, cy - h, cx + w, cy + h, wrapped(angle_deg)};
}

/// Where one looks for somebody at any angle, from the angle of the crop.
inline constexpr double kQuartersDeg[] = {0.0, 90.0, 180.0, -90.0};

/// Whether one can look into a box.
inline bool is_usable(const Box& box, int height, int width) {
  try {
    check_box(box, height, width);
  } catch (const UsageError&) {
    return false;
  }
  return true;
}

/// Finds keypoints in boxes of images. One serves one thread.
class Estimator {
 public:
  /// `color` is the channel order of the images, "rgb" or "bgr".
  Estimator(const ModelSpec& model, std::unique_ptr<Session> session, const std::string& color = "rgb")
      : model_(model), session_(std::move(session)), preprocessor_(model.input, checked_color(color)), decoding_(model) {
    std::vector<std::pair<std::string, std::vector<std::int64_t>>> shapes;
    for (const TensorSpec& one : session_->outputs()) shapes.emplace_back(one.role, one.shape);
    decoding_.check_shapes<BackendError>(shapes);
    is_byte_ = session_->input().dtype == "uint8";
  }

  const ModelSpec& model() const { return model_; }
  const Session& session() const { return *session_; }
  /// Whether the network finds any number of people in an image; see `detect`.
  bool finds_people() const { return model_.decoder.finds_people(); }

  /// Keypoints in one box; none is the whole image. Of a network that finds people the best one inside it, however low
  /// its score. With a camera keypoints_3d are absolute millimetres.
  Pose operator()(const Image& image, const std::optional<Box>& box = {}, const std::optional<Camera>& camera = {}) {
    return estimate(image, {box}, true, camera).at(0);
  }

  /// Keypoints in several boxes of one image, by one inference.
  std::vector<Pose> batch(const Image& image, const std::vector<std::optional<Box>>& boxes, const std::optional<Camera>& camera = {}) {
    return boxes.empty() ? std::vector<Pose>() : estimate(image, boxes, true, camera);
  }

  /// Keypoints in a box whose angle nobody knows: by two to six inferences where crops are turned, else by one.
  ///
  /// The first looks into the box at angle 0. Where it finds nobody, by the presence, or one who is turned by more than 30
  /// degrees, three others look at 90, 180 and -90. The two surest of these, by presence and mean score, tell where to look once more.
  /// A box with an angle is looked into once, at that.
  Pose at_any_angle(const Image& image, const std::optional<Box>& box = {}, const std::optional<Camera>& camera = {}) {
    constexpr double kUprightDeg = 30.0;
    constexpr std::size_t kSurest = 2;
    std::vector<Pose> seen{(*this)(image, box, camera)}, again;
    const Box where = check_box(box, image.height, image.width);
    if (!model_.input.rotate_by || where.angle_deg) return seen.front();
    const std::pair<int, int> turn = *model_.input.rotate_by;
    const auto look = [&](const Box& turned, std::vector<Pose>& found) {
      if (is_usable(turned, image.height, image.width)) found.push_back((*this)(image, turned, camera));
    };
    if (seen.front().presence.value_or(1.0F) < kThere || std::abs(angle_of(seen.front(), turn).value_or(180.0)) > kUprightDeg) {
      for (std::size_t i = 1; i < std::size(kQuartersDeg); ++i) look(box_at(where, kQuartersDeg[i]), seen);
    }
    Pose first = seen.front();
    const auto by_sureness = [](const Pose& one, const Pose& other) { return sureness(one) > sureness(other); };  // there, scores, presence
    std::stable_sort(seen.begin(), seen.end(), by_sureness);
    for (std::size_t i = 0; i < std::min(kSurest, seen.size()); ++i) look(box_around(seen[i], turn), again);
    std::stable_sort(again.begin(), again.end(), by_sureness);
    return again.empty() ? first : again.front();
  }

  /// All people whose score reaches the threshold of the model, by falling score.
  std::vector<Pose> detect(const Image& image, const std::optional<Box>& box = {}) {
    if (!finds_people()) {
      throw UsageError("The model '" + model_.name + "' finds one hand or person in each box, and no boxes.", "Call the estimator itself, with the image and a box.");
    }
    return estimate(image, {box}, false, {});
  }

  /// Keypoints in pixels of crops that are cut already: (N, h, w, C) bytes, in the channel order of the model.
  Decoded decode_crops(const std::uint8_t* crops, std::int64_t count, bool best = true) { return decoding_(run(crops, count), best); }

  /// What the network gives for such crops, by role, until the next call.
  const Arrays& run(const std::uint8_t* crops, std::int64_t count) {
    const void* feed = crops;
    if (!is_byte_) {
      const std::size_t values = crop_bytes();
      tensor_.resize(values * static_cast<std::size_t>(count));
      for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) preprocessor_.normalise(crops + i * values, tensor_.data() + i * values);
      feed = tensor_.data();
    }
    return session_->run(feed, count);
  }

  /// One crop as the network sees it, (h, w, C) bytes.
  std::vector<std::uint8_t> crop(const Image& image, const std::optional<Box>& box) {
    std::vector<std::uint8_t> made(crop_bytes());
    preprocessor_.crop(image, check_box(box, image.height, image.width), made.data());
    return made;
  }

 private:
  static const std::string& checked_color(const std::string& color) {
    if (color != "rgb" && color != "bgr") throw UsageError("The channel order is '" + color + "'.", "Choose 'rgb' or 'bgr'.");
    return color;
  }
  static constexpr float kThere = 0.5F;
  static std::tuple<bool, float, float> sureness(const Pose& pose) {
    const float presence = pose.presence.value_or(1.0F);
    return {presence >= kThere, std::accumulate(pose.scores.begin(), pose.scores.end(), 0.0F), presence};
  }
  std::size_t crop_bytes() const {
    return static_cast<std::size_t>(model_.input.channels()) * static_cast<std::size_t>(model_.input.height) * static_cast<std::size_t>(model_.input.width);
  }

  std::vector<Pose> estimate(const Image& image, const std::vector<std::optional<Box>>& boxes, bool best, const std::optional<Camera>& camera) {
    constexpr int kMostSide = 1 << 20;
    if (image.data == nullptr || image.height <= 0 || image.width <= 0 || std::max(image.height, image.width) > kMostSide) {
      throw UsageError("The image has no pixels, or a side of more than a million.", "Pass (rows, columns, 3) bytes.");
    }
    if (camera) {
      if (!model_.decoder.has_depth()) throw UsageError("This model gives no depth.", "Leave out the camera.");
      checked_camera(*camera);
    }
    crops_.resize(crop_bytes() * boxes.size());
    std::vector<Box> checked;
    std::vector<Matrix> matrices;
    for (std::size_t i = 0; i < boxes.size(); ++i) {
      checked.push_back(check_box(boxes[i], image.height, image.width));
      matrices.push_back(preprocessor_.crop(image, checked.back(), crops_.data() + i * crop_bytes()));
    }
    const Decoded decoded = decode_crops(crops_.data(), static_cast<std::int64_t>(boxes.size()), best);
    std::vector<Pose> poses;
    for (int i = 0; i < decoded.count; ++i) {
      const auto at = static_cast<std::size_t>(decoded.finds_people ? decoded.crops[static_cast<std::size_t>(i)] : i);
      poses.push_back(finish(decoded, static_cast<std::size_t>(i), checked.at(at), matrices.at(at), camera));
    }
    return poses;
  }

  /// Maps keypoints back to the image and lifts them to 3D.
  Pose finish(const Decoded& decoded, std::size_t index, const Box& box, const Matrix& matrix, const std::optional<Camera>& camera) const {
    const Matrix back = invert(matrix);
    const auto k = static_cast<std::size_t>(decoded.keypoint_count);
    Pose pose;
    bool finite = true;
    for (std::size_t i = 0; i < k; ++i) {
      const float* at = decoded.keypoints.data() + 2 * (index * k + i);
      const auto [x, y] = transform(back, at[0], at[1]);
      pose.keypoints.push_back({static_cast<float>(x), static_cast<float>(y)});
      finite = finite && std::isfinite(pose.keypoints.back()[0]) && std::isfinite(pose.keypoints.back()[1]);
      pose.scores.push_back(decoded.scores[index * k + i]);
    }
    pose.box = {static_cast<float>(box.x0), static_cast<float>(box.y0), static_cast<float>(box.x1), static_cast<float>(box.y1)};
    if (decoded.finds_people) {
      const float* found = decoded.boxes.data() + 4 * index;
      for (std::size_t corner = 0; corner < 2; ++corner) {
        const auto [x, y] = transform(back, found[2 * corner], found[2 * corner + 1]);
        pose.box[2 * corner] = static_cast<float>(x), pose.box[2 * corner + 1] = static_cast<float>(y);
        finite = finite && std::isfinite(pose.box[2 * corner]) && std::isfinite(pose.box[2 * corner + 1]);
      }
      pose.box_score = decoded.people_scores[index];
    }
    if (!decoded.depth.empty()) lift(pose, decoded, index, matrix, camera);
    for (const Point3& point : pose.keypoints_3d) finite = finite && std::isfinite(point[0] + point[1] + point[2]);
    if (!finite) {
      throw BackendError("Keypoints or boxes in the image, or in three dimensions, are not finite (NaN or infinity).",
                         "The network gives numbers near the end of float32: look at its weights.");
    }
    for (const auto& [head, values] : decoded.heads) (head == "presence" ? pose.presence : pose.handedness) = values.at(index);
    if (model_.input.rotate_by) pose.angle_deg = wrapped(box.angle_deg.value_or(0.0));
    return pose;
  }

  void lift(Pose& pose, const Decoded& decoded, std::size_t index, const Matrix& matrix, const std::optional<Camera>& camera) const {
    const DecoderSpec& how = model_.decoder;
    const auto k = pose.keypoints.size();
    const auto begin = decoded.depth.begin() + static_cast<std::ptrdiff_t>(index * k);
    std::vector<float> depth(begin, begin + static_cast<std::ptrdiff_t>(k));
    const float* keypoints = pose.keypoints[0].data();
    if (how.unit == "pixel") {
      const auto image_px = static_cast<float>(1.0 / std::sqrt(std::abs(matrix[0] * matrix[4] - matrix[1] * matrix[3])));
      for (float& one : depth) one *= image_px;
      std::optional<std::vector<float>> palms = in_palms(keypoints, std::move(depth), how);
      if (!palms) return;
      depth = std::move(*palms);
    }
    const bool is_mm = how.unit == "mm";
    const auto points = camera ? absolute(keypoints, depth, how, *camera) : weak_perspective(keypoints, depth, how, is_mm ? model_.palm_mm.value_or(1.0) : 1.0);
    if (!points) return;
    pose.keypoints_3d = *points;
    pose.unit = camera || is_mm ? "mm" : "palm";
    pose.origin = camera ? "camera" : "root";
  }

  ModelSpec model_;
  std::unique_ptr<Session> session_;
  Preprocessor preprocessor_;
  Decoding decoding_;
  bool is_byte_ = false;
  std::vector<std::uint8_t> crops_;
  std::vector<float> tensor_;
};

/// A pose as JSON, with the fields and the rounding of `splite-deploy run --json`.
inline std::string to_json(const Pose& pose) {
  std::string text = "{";
  const auto number = [&](double value, int digits) {
    char shown[64];
    std::snprintf(shown, sizeof shown, "%.*f", digits, value);
    for (char* at = shown; *at != '\0'; ++at) *at = *at == ',' ? '.' : *at;  // of a locale
    text += shown;
  };
  const auto list = [&](const auto& values, int digits) {
    text += "[";
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (i > 0) text += ", ";
      number(values[i], digits);
    }
    text += "]";
  };
  const auto lists = [&](const auto& rows, int digits) {
    text += "[";
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (i > 0) text += ", ";
      list(rows[i], digits);
    }
    text += "]";
  };
  const auto maybe = [&](const char* name, const auto& value, int digits) {
    if (!value) return;
    text += std::string(", \"") + name + "\": ";
    number(*value, digits);
  };
  text += "\"box\": ", list(pose.box, 3);
  text += ", \"keypoints\": ", lists(pose.keypoints, 3);
  text += ", \"scores\": ", list(pose.scores, 3);
  text += ", \"keypoints_3d\": ";
  if (pose.keypoints_3d.empty()) {
    text += "null, \"unit\": null, \"origin\": null";
  } else {
    lists(pose.keypoints_3d, 4);
    text += ", \"unit\": \"" + pose.unit + "\", \"origin\": \"" + pose.origin + "\"";
  }
  if (!pose.box_score) text += ", \"box_score\": null";
  maybe("box_score", pose.box_score, 4), maybe("presence", pose.presence, 4), maybe("handedness", pose.handedness, 4);
  maybe("angle_deg", pose.angle_deg, 3);
  return text + "}";
}

}  // namespace splite
