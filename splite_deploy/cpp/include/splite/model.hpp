// What a model needs to be run, as the manifest of a bundle says it: plain data.
//
// Pixels are continuous: the origin is the top-left corner of the top-left pixel, whose centre is (0.5, 0.5).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace splite {

/// How an image becomes the network's input; see "Preprocessing" in docs/bundle-format.md.
struct InputSpec {
  int height = 0;
  int width = 0;
  std::string color;  ///< "rgb", "bgr" or "gray"
  std::vector<double> mean;  ///< of each channel, on the 0-255 scale
  std::vector<double> deviation;  ///< its standard deviation
  double box_padding = 1.0;
  int pad_value = 0;
  std::string letterbox;  ///< "centre", "corner", or empty: the network is given boxes
  std::optional<std::pair<int, int>> rotate_by;

  int channels() const { return color == "gray" ? 1 : 3; }
};

/// The parameters of a decoder. Each type uses some of them; the others keep their defaults.
struct DecoderSpec {
  std::string type;
  // Heatmaps
  double stride = 0.0;
  std::string alignment;
  double beta = 0.0;
  int score_window = 0;
  int window = 0;
  std::string offset;
  int blur_kernel = 0;  ///< 0 where there is none
  std::string target;
  double radius_factor = 0.0;
  std::string offset_order;
  std::string offset_unit;
  int bins = 0;  ///< of a volume, and of each side of a box
  double depth_extent = 0.0;
  // Bins along axes, and coordinates
  double split_ratio = 0.0;
  std::string refine;
  std::string scale;  ///< "unit", "pixel" or "symmetric"
  std::vector<std::string> columns;
  bool has_columns = false;
  bool has_scores = false;
  // Depth
  int root_keypoint = -1;
  std::string unit;
  std::vector<std::pair<int, int>> scale_bones;
  // Several people
  double min_score = 0.0;
  double overlap = 0.0;
  int max_people = 0;
  std::string form;
  bool visibility = false;
  std::string boxes;
  bool objectness = false;
  std::vector<double> strides;
  std::string heads;
  std::vector<std::vector<double>> anchors;
  int classes = 1;
  std::vector<double> aspect_ratios;
  double interpolated_scale_aspect_ratio = 0.0;
  double anchor_offset = 0.0;
  bool fixed_anchor_size = false;
  double divisor = 1.0;  ///< `scale` of anchors
  double score_clipping = 0.0;
  std::string nms;
  std::optional<double> min_scale;
  std::optional<double> max_scale;
  std::string heatmap;  ///< "logits" or "probabilities"
  bool offsets = false;
  std::string origin;
  std::string step_unit;  ///< `unit` of centernet: "cell" or "pixel"
  bool keypoints = false;
  std::string scores;  ///< "logits" or "probabilities"
  std::optional<int> label;

  bool has_depth() const { return root_keypoint >= 0; }
  bool finds_people() const {
    return type == "yolo-pose" || type == "anchors" || type == "centernet" || type == "boxes";
  }
};

struct SkeletonSpec {
  std::vector<std::string> keypoint_names;
  std::vector<std::pair<int, int>> edges;
  std::vector<std::pair<int, int>> flip_pairs;
};

/// How far keypoints may lie from the reference, in input pixels; depth in the decoder's unit.
struct LimitSpec {
  double shift_p95_px = 0.01;
  double shift_max_px = 0.05;
  std::optional<double> depth_p95;
  double score_max = 0.001;
  std::optional<double> head_p95;
  std::optional<double> box_iou_p05;
  std::optional<double> centre_p95_pct;
};

struct ModelSpec {
  std::string name;
  InputSpec input;
  DecoderSpec decoder;
  SkeletonSpec skeleton;
  LimitSpec limits;
  std::optional<double> palm_mm;
  std::vector<std::string> heads;  ///< some of "presence", "handedness"

  int keypoint_count() const { return static_cast<int>(skeleton.keypoint_names.size()); }
};

/// One input or output of an artifact.
struct TensorSpec {
  std::string name;
  std::vector<std::int64_t> shape;  ///< -1 for an open batch
  std::string dtype;
  std::string layout;
  std::string role;
};

/// One runnable file of a bundle, or a graph of which engines are built (`typing` is set then).
struct Artifact {
  std::string format;
  std::string backend;
  std::string precision;
  std::string typing;
  std::string file;
  std::string sha256;
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
  LimitSpec limits;
  std::vector<std::pair<std::string, std::string>> target;
  bool has_view = false;
};

struct GoldenTensor {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::int64_t offset = 0;
};

struct GoldenSpec {
  std::string file;
  std::string sha256;
  std::string reference;
  std::vector<GoldenTensor> tensors;
  std::string color;
  std::array<double, 4> box{};
  double angle_deg = 0.0;
};

/// Arrays of float32, row-major. What `data` points to belongs to whoever gave it.
struct Array {
  std::vector<std::int64_t> shape;
  const float* data = nullptr;

  std::int64_t size() const {
    std::int64_t count = 1;
    for (const std::int64_t one : shape) count *= one;
    return count;
  }
};

/// Arrays by role or by name.
using Arrays = std::vector<std::pair<std::string, Array>>;

inline const Array* find_array(const Arrays& arrays, const std::string& name) {
  for (const auto& [its_name, array] : arrays) {
    if (its_name == name) return &array;
  }
  return nullptr;
}

}  // namespace splite
