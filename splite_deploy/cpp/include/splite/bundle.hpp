// Opens a bundle of format version 2: reads its manifest, checks it, and checks the hash of every file.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <limits>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "decode.hpp"
#include "error.hpp"
#include "json.hpp"
#include "model.hpp"
#include "sha256.hpp"

namespace splite {

inline constexpr int kFormatVersion = 2;

namespace detail {

[[noreturn]] inline void malformed(const std::string& said) {
  throw BundleError("manifest.json is malformed: " + said + ".", kCopyAgain);
}
inline void hold(bool condition, const std::string& said) {
  if (!condition) malformed(said);
}

/// A table of the manifest, whose fields are read by name; keys that nobody asks for are ignored.
class Table {
 public:
  Table(const Json& json, std::string path) : json_(&json), path_(std::move(path)) {
    hold(json.is_table(), path_ + " is no table");
  }
  static Table at(const Table& above, const char* key) { return {above.need(key), above.name(key)}; }

  std::string name(const std::string& key) const { return path_.empty() ? key : path_ + "." + key; }
  const Json& need(const char* key) const {
    const Json* found = json_->find(key);
    hold(found != nullptr, "the field " + name(key) + " is missing");
    return *found;
  }
  /// The value of a field that may be missing or null, or nullptr.
  const Json* maybe(const char* key) const {
    const Json* found = json_->find(key);
    return found == nullptr || found->is_null() ? nullptr : found;
  }
  const Json& json() const { return *json_; }

  std::string text(const char* key) const { return text_of(need(key), name(key)); }
  bool truth(const char* key) const {
    const Json& value = need(key);
    hold(value.is_bool(), name(key) + " is neither true nor false");
    return value.truth();
  }
  double number(const char* key, double least, double most) const { return number_of(need(key), name(key), least, most); }
  int integer(const char* key, double least, double most) const { return integer_of(need(key), name(key), least, most); }
  std::string choice(const char* key, std::initializer_list<const char*> choices) const {
    const std::string value = text(key);
    const bool known = std::any_of(choices.begin(), choices.end(), [&](const char* one) { return value == one; });
    hold(known, name(key) + " is '" + value + "', which it cannot be");
    return value;
  }
  const std::vector<Json>& list(const char* key) const {
    const Json& value = need(key);
    hold(value.is_list(), name(key) + " is no list");
    return value.list();
  }
  std::vector<double> numbers(const char* key, double least, double most) const {
    std::vector<double> found;
    for (const Json& one : list(key)) found.push_back(number_of(one, name(key), least, most));
    return found;
  }
  std::vector<std::pair<int, int>> pairs(const char* key) const {
    std::vector<std::pair<int, int>> found;
    for (const Json& one : list(key)) found.push_back(pair_of(one, name(key)));
    return found;
  }

  static std::string text_of(const Json& value, const std::string& name) {
    hold(value.is_text(), name + " is no text");
    return value.text();
  }
  static double number_of(const Json& value, const std::string& name, double least, double most) {
    hold(value.is_number() && std::abs(value.number()) < std::numeric_limits<double>::max(), name + " is no finite number");
    hold(value.number() >= least && value.number() <= most, name + " lies outside of what it may be");
    return value.number();
  }
  static int integer_of(const Json& value, const std::string& name, double least, double most) {
    hold(value.is_integer(), name + " is no whole number");
    return static_cast<int>(number_of(value, name, least, most));
  }
  static std::pair<int, int> pair_of(const Json& value, const std::string& name) {
    hold(value.is_list() && value.list().size() == 2, name + " holds no pairs");
    return {integer_of(value.list()[0], name, -1e6, 1e6), integer_of(value.list()[1], name, -1e6, 1e6)};
  }

 private:
  const Json* json_;
  std::string path_;
};

constexpr double kMost = 1e6;  // of numbers that have no narrower bounds
constexpr double kLongest = 4096.0;

inline InputSpec read_input(const Table& table) {
  InputSpec spec;
  spec.height = table.integer("height", 1, kLongest), spec.width = table.integer("width", 1, kLongest);
  spec.color = table.choice("color", {"rgb", "bgr", "gray"});
  spec.mean = table.numbers("mean", 0, 255), spec.deviation = table.numbers("std", 1e-3, 1e4);
  const auto channels = static_cast<std::size_t>(spec.channels());
  hold(spec.mean.size() == channels && spec.deviation.size() == channels, "input.mean or input.std has not a number for each channel");
  const double most_std = *std::max_element(spec.deviation.begin(), spec.deviation.end());
  const double most_mean = *std::max_element(spec.mean.begin(), spec.mean.end());
  hold(!(most_std < 1 || (most_std == 1 && 0 < most_mean && most_mean <= 1)), "input.std looks like the 0-1 scale");
  spec.box_padding = table.number("box_padding", 0.1, 10);
  spec.pad_value = table.integer("pad_value", 0, 255);
  if (table.maybe("letterbox") != nullptr) spec.letterbox = table.choice("letterbox", {"centre", "corner"});
  return spec;
}

inline void read_depth(const Table& table, DecoderSpec& spec, bool may_be_pixel, int keypoints) {
  spec.root_keypoint = table.integer("root_keypoint", 0, kMost);
  spec.unit = may_be_pixel ? table.choice("unit", {"palm", "mm", "pixel"}) : table.choice("unit", {"palm", "mm"});
  spec.scale_bones = table.pairs("scale_bones");
  hold(!spec.scale_bones.empty(), "decoder.scale_bones needs at least one pair of keypoints");
  hold(spec.root_keypoint < keypoints, "decoder.root_keypoint names no keypoint");
  for (const auto& [a, b] : spec.scale_bones) {
    hold(a != b && a >= 0 && b >= 0 && a < keypoints && b < keypoints, "decoder.scale_bones names no pair of keypoints");
  }
}

inline int read_kernel(const Table& table) {
  const int kernel = table.integer("blur_kernel", 1, 1023);
  hold(kernel % 2 == 1, "decoder.blur_kernel must be odd");
  return kernel;
}

/// Whether a stride divides the input, or the input less its last pixel where cells lie on pixels.
inline void check_stride(double stride, const InputSpec& input, bool centred) {
  for (const int pixels : {input.height, input.width}) {
    double off = std::abs(std::nearbyint(pixels / stride) * stride - pixels);
    if (centred) off = std::min(off, std::abs(std::nearbyint((pixels - 1) / stride) * stride - (pixels - 1)));
    hold(off < 0.01, "decoder.stride does not divide the input");
  }
}

/// Fields that belong to one form or kind of a decoder, and to no other.
inline void check_given(const Table& table, std::initializer_list<const char*> all, std::initializer_list<const char*> needed) {
  for (const char* name : all) {
    const bool needs = std::any_of(needed.begin(), needed.end(), [&](const char* one) { return std::strcmp(one, name) == 0; });
    hold(needs == (table.maybe(name) != nullptr), "decoder." + std::string(name) + (needs ? " is missing" : " does not belong there"));
  }
}

inline void read_heatmaps(const Table& table, DecoderSpec& spec, const InputSpec& input, int keypoints) {
  spec.stride = table.number("stride", 0.01, kLongest);
  spec.alignment = table.choice("alignment", {"corner", "centre", "udp"});
  const bool soft = spec.type.rfind("softargmax", 0) == 0 || spec.type == "volume";
  if (soft) spec.beta = table.number("beta", 1e-6, 1e6);
  if (soft && spec.type != "softargmax-window") {
    spec.score_window = table.integer("score_window", 1, kLongest);
    hold(spec.score_window % 2 == 1, "decoder.score_window must be odd");
  }
  if (spec.type == "softargmax-window") {
    spec.window = table.integer("window", 1, kLongest);
    hold(spec.window % 2 == 1, "decoder.window must be odd");
  }
  if (spec.type == "argmax") spec.offset = table.choice("offset", {"quarter", "none"});
  if (spec.type == "dark" || spec.type == "udp") spec.blur_kernel = read_kernel(table);
  if (spec.type == "udp") {
    hold(spec.alignment == "udp", "decoder.alignment is \"udp\" wherever decoder.type is");
    spec.target = table.choice("target", {"gaussian", "combined"});
    check_given(table, {"radius_factor"}, spec.target == "combined" ? std::initializer_list<const char*>{"radius_factor"} : std::initializer_list<const char*>{});
    if (spec.target == "combined") spec.radius_factor = table.number("radius_factor", 1e-3, 1e3);
  }
  if (spec.type == "offset") {
    spec.offset_order = table.choice("offset_order", {"yyxx", "xxyy", "yxyx", "xyxy"});
    spec.offset_unit = table.choice("offset_unit", {"pixel", "cell"});
  }
  if (spec.type == "volume") {
    spec.bins = table.integer("bins", 2, 65536);
    spec.depth_extent = table.number("depth_extent", 1e-3, 1e5);
  }
  if (spec.type == "softargmax-depth" || spec.type == "volume") read_depth(table, spec, spec.type == "volume", keypoints);
  check_stride(spec.stride, input, spec.alignment == "centre");
}

inline void read_points(const Table& table, DecoderSpec& spec, const InputSpec& input, int keypoints) {
  if (spec.type == "simcc") {
    spec.split_ratio = table.number("split_ratio", 1e-3, 100);
    spec.refine = table.choice("refine", {"none", "dark", "softargmax"});
    if (spec.refine == "dark") check_given(table, {"blur_kernel", "beta"}, {"blur_kernel"}), spec.blur_kernel = read_kernel(table);
    if (spec.refine == "softargmax") check_given(table, {"blur_kernel", "beta"}, {"beta"}), spec.beta = table.number("beta", 1e-6, 1e6);
    if (spec.refine == "none") check_given(table, {"blur_kernel", "beta"}, {});
    for (const int pixels : {input.height, input.width}) {
      const double bins = pixels * spec.split_ratio;
      hold(std::abs(std::nearbyint(bins) - bins) < 0.01, "decoder.split_ratio makes no whole bins");
    }
    return;
  }
  spec.scale = table.choice("scale", {"unit", "pixel", "symmetric"});
  spec.has_scores = table.json().find("scores") != nullptr && table.truth("scores");
  bool has_z = false, has_score = false;
  if (table.maybe("columns") != nullptr) {
    spec.has_columns = true;
    for (const Json& one : table.list("columns")) spec.columns.push_back(Table::text_of(one, "decoder.columns"));
    has_z = spec.columns.size() > 2 && spec.columns[2] == "z";
    has_score = !spec.columns.empty() && spec.columns.back() == "score";
    std::vector<std::string> ordered = {"x", "y"};
    if (has_z) ordered.emplace_back("z");
    if (has_score) ordered.emplace_back("score");
    hold(spec.columns == ordered, "decoder.columns must be \"x\", \"y\", then \"z\" and \"score\" where there are any");
    hold(!(spec.has_scores && has_score), "decoder.scores is true and decoder.columns has a \"score\", too");
  }
  if (has_z) {
    read_depth(table, spec, true, keypoints);
  } else {
    check_given(table, {"root_keypoint", "unit", "scale_bones"}, {});
  }
}

inline void read_yolo(const Table& table, DecoderSpec& spec, const InputSpec& input, int keypoints) {
  const auto all = {"boxes", "scale", "objectness", "strides", "heads", "bins", "anchors"};
  spec.form = table.choice("form", {"decoded", "final", "anchor-free", "anchor-based"});
  spec.visibility = table.truth("visibility");
  spec.classes = table.json().find("classes") == nullptr ? 1 : table.integer("classes", 1, 65536);
  if (spec.form == "decoded") check_given(table, all, {"boxes", "scale", "objectness"});
  if (spec.form == "final") check_given(table, all, {"boxes", "scale"});
  if (spec.form == "anchor-free") check_given(table, all, {"strides", "heads", "bins"});
  if (spec.form == "anchor-based") check_given(table, all, {"strides", "heads", "anchors"});
  if (table.maybe("boxes") != nullptr) {
    spec.boxes = table.choice("boxes", {"xywh", "xyxy"});
    spec.scale = table.choice("scale", {"unit", "pixel"});
  }
  if (table.maybe("objectness") != nullptr) spec.objectness = table.truth("objectness");
  if (table.maybe("bins") != nullptr) spec.bins = table.integer("bins", 1, 65536);
  if (table.maybe("strides") == nullptr) return;
  spec.heads = table.choice("heads", {"one", "levels", "parts"});
  spec.strides = table.numbers("strides", 0.01, kLongest);
  hold(!spec.strides.empty(), "decoder.strides is empty");
  for (const double stride : spec.strides) check_stride(stride, input, false);
  hold(spec.heads != "parts" || (spec.form == "anchor-free" && keypoints > 0), "decoder.heads is \"parts\" where it cannot be");
  if (table.maybe("anchors") == nullptr) return;
  for (const Json& level : table.list("anchors")) {
    std::vector<double> sizes;
    hold(level.is_list(), "decoder.anchors holds no lists");
    for (const Json& one : level.list()) sizes.push_back(Table::number_of(one, "decoder.anchors", 1e-3, 1e5));
    hold(!sizes.empty() && sizes.size() % 2 == 0, "decoder.anchors must be pairs of a width and a height for each level");
    spec.anchors.push_back(std::move(sizes));
  }
  hold(spec.anchors.size() == spec.strides.size(), "decoder.anchors must have a list for each stride");
}

inline void read_people(const Table& table, DecoderSpec& spec, const InputSpec& input, int keypoints) {
  spec.min_score = table.number("min_score", 0, 1), spec.overlap = table.number("overlap", 0, 1);
  hold(spec.min_score > 0 && spec.min_score < 1 && spec.overlap > 0, "decoder.min_score or overlap does not lie between 0 and 1");
  spec.max_people = table.integer("max_people", 1, 10'000);
  if (spec.type == "yolo-pose") {
    read_yolo(table, spec, input, keypoints);
  } else if (spec.type == "anchors") {
    for (const Json& one : table.list("strides")) spec.strides.push_back(Table::integer_of(one, "decoder.strides", 1, kLongest));
    hold(!spec.strides.empty(), "decoder.strides is empty");
    spec.aspect_ratios = table.numbers("aspect_ratios", 1e-3, 1e3);
    spec.interpolated_scale_aspect_ratio = table.number("interpolated_scale_aspect_ratio", -kMost, kMost);
    spec.anchor_offset = table.number("anchor_offset", -kMost, kMost);
    spec.fixed_anchor_size = table.truth("fixed_anchor_size");
    spec.divisor = table.number("scale", 1e-6, 1e6);
    spec.score_clipping = table.number("score_clipping", 1e-3, 1e6);
    spec.nms = table.choice("nms", {"greedy", "weighted"});
    if (table.maybe("min_scale") != nullptr) spec.min_scale = table.number("min_scale", 1e-6, 1e3);
    if (table.maybe("max_scale") != nullptr) spec.max_scale = table.number("max_scale", 1e-6, 1e3);
    hold(spec.fixed_anchor_size || (spec.min_scale && spec.max_scale), "decoder.min_scale and max_scale tell how large anchors are");
  } else if (spec.type == "centernet") {
    spec.stride = table.number("stride", 0.01, kLongest);
    spec.heatmap = table.choice("heatmap", {"logits", "probabilities"});
    spec.boxes = table.choice("boxes", {"distances", "sizes"});
    spec.offsets = table.truth("offsets"), spec.keypoints = table.truth("keypoints");
    spec.origin = table.choice("origin", {"corner", "centre"}), spec.step_unit = table.choice("unit", {"cell", "pixel"});
    hold(!spec.offsets || spec.boxes == "sizes", "decoder.offsets move the middle of boxes of a size alone");
    hold(spec.keypoints == (keypoints > 0), "decoder.keypoints does not fit the skeleton");
    check_stride(spec.stride, input, false);
  } else {
    spec.boxes = table.choice("boxes", {"xywh", "xyxy"}), spec.scale = table.choice("scale", {"unit", "pixel"});
    spec.scores = table.choice("scores", {"logits", "probabilities"}), spec.nms = table.choice("nms", {"greedy", "none"});
    if (table.maybe("label") != nullptr) spec.label = table.integer("label", 0, kMost);
    hold(keypoints == 0, "the decoder 'boxes' finds boxes alone, and the skeleton has keypoints");
  }
}

inline DecoderSpec read_decoder(const Table& table, const InputSpec& input, int keypoints) {
  DecoderSpec spec;
  spec.type = table.choice("type", {"softargmax", "softargmax-window", "softargmax-depth", "argmax", "dark", "udp", "expectation",
                                    "offset", "simcc", "volume", "coordinates", "yolo-pose", "anchors", "centernet", "boxes"});
  if (spec.finds_people()) {
    hold(!input.letterbox.empty(), "input.letterbox is missing: the decoder finds people in whole images");
    read_people(table, spec, input, keypoints);
  } else if (spec.type == "simcc" || spec.type == "coordinates") {
    read_points(table, spec, input, keypoints);
  } else {
    read_heatmaps(table, spec, input, keypoints);
  }
  hold(spec.finds_people() || keypoints > 0, "skeleton.keypoint_names is empty");
  return spec;
}

inline LimitSpec read_limits(const Table& table) {
  LimitSpec limits;
  const auto one = [&](const char* key, double most) -> std::optional<double> {
    if (table.maybe(key) == nullptr) return std::nullopt;
    const double value = table.number(key, 0, most);
    hold(value > 0, "limits must be positive");
    return value;
  };
  limits.shift_p95_px = one("shift_p95_px", 1000).value_or(limits.shift_p95_px);
  limits.shift_max_px = one("shift_max_px", 1e6).value_or(limits.shift_max_px);
  limits.depth_p95 = one("depth_p95", 1e6), limits.head_p95 = one("head_p95", 1);
  limits.score_max = one("score_max", 1).value_or(limits.score_max);
  limits.box_iou_p05 = one("box_iou_p05", 0.9999), limits.centre_p95_pct = one("centre_p95_pct", 100);
  return limits;
}

/// Characters of a text of UTF-8.
inline std::size_t characters(const std::string& text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char one) { return (one & 0xc0) != 0x80; }));
}

inline ModelSpec read_model(const Table& table) {
  constexpr std::size_t kLongestName = 200, kMostKeypoints = 4096;
  ModelSpec model;
  model.name = table.text("name");
  const auto word = [](char one) { return std::isalnum(static_cast<unsigned char>(one)) || one == '-' || one == '_' || (one & 0x80); };
  hold(!model.name.empty() && std::all_of(model.name.begin(), model.name.end(), word) && characters(model.name) <= kLongestName, "model.name must be a word");
  model.input = read_input(Table::at(table, "input"));
  const Table skeleton = Table::at(table, "skeleton");
  for (const Json& one : skeleton.list("keypoint_names")) {
    model.skeleton.keypoint_names.push_back(Table::text_of(one, "skeleton.keypoint_names"));
    hold(characters(model.skeleton.keypoint_names.back()) <= kLongestName, "skeleton.keypoint_names has a name that is too long");
  }
  const auto& names = model.skeleton.keypoint_names;
  hold(names.size() <= kMostKeypoints, "skeleton.keypoint_names has too many names");
  hold(std::set<std::string>(names.begin(), names.end()).size() == names.size(), "skeleton.keypoint_names has a name twice");
  model.skeleton.edges = skeleton.pairs("edges");
  if (skeleton.json().find("flip_pairs") != nullptr) model.skeleton.flip_pairs = skeleton.pairs("flip_pairs");
  for (const auto* pairs : {&model.skeleton.edges, &model.skeleton.flip_pairs}) {
    for (const auto& [a, b] : *pairs) {
      hold(a >= 0 && b >= 0 && a < model.keypoint_count() && b < model.keypoint_count(), "a pair of the skeleton names no keypoint");
    }
  }
  const Json* turn = table.need("input").find("rotate_by");
  if (turn != nullptr && !turn->is_null()) {
    hold(turn->is_list() && turn->list().size() == 2, "input.rotate_by is no pair");
    int found[2];
    for (std::size_t i = 0; i < 2; ++i) {
      const Json& one = turn->list()[i];
      const auto at = one.is_text() ? std::find(names.begin(), names.end(), one.text()) - names.begin()
                                    : Table::integer_of(one, "input.rotate_by", 0, kMost);
      hold(at < model.keypoint_count(), "input.rotate_by names no keypoint");
      found[i] = static_cast<int>(at);
    }
    hold(found[0] != found[1] && model.input.letterbox.empty(), "input.rotate_by does not fit");
    model.input.rotate_by = {found[0], found[1]};
  }
  model.decoder = read_decoder(Table::at(table, "decoder"), model.input, model.keypoint_count());
  if (table.json().find("limits") != nullptr) model.limits = read_limits(Table::at(table, "limits"));
  if (table.maybe("palm_mm") != nullptr) model.palm_mm = table.number("palm_mm", 0.1, 1e4);
  hold(model.decoder.unit != "mm" || model.palm_mm.has_value(), "a depth in mm needs palm_mm");
  if (table.json().find("heads") != nullptr) {
    for (const Json& one : table.list("heads")) {
      const std::string head = Table::text_of(one, "model.heads");
      if (head == "presence" || head == "handedness") model.heads.push_back(head);  // others are of a later version
    }
  }
  hold(model.heads.size() < 2 || (model.heads.size() == 2 && model.heads[0] == "presence" && model.heads[1] == "handedness"), "model.heads are not in their order");
  hold(model.heads.empty() || !model.decoder.finds_people(), "model.heads are of one hand or person in a crop");
  return model;
}

/// Whether a file of this name can lie in a bundle on every system, and nowhere else.
inline bool is_plain_name(const std::string& name) {
  if (name.empty() || name.size() > 200 || name.back() == '.' || name.back() == ' ') return false;
  for (const char one : name) {
    if (static_cast<unsigned char>(one) < 0x20 || one == 0x7f || std::strchr("/\\:*?\"<>|", one) != nullptr) return false;
  }
  std::string stem = name.substr(0, name.find('.'));
  std::transform(stem.begin(), stem.end(), stem.begin(), [](unsigned char one) { return static_cast<char>(std::tolower(one)); });
  const bool numbered = stem.size() == 4 && (stem.rfind("com", 0) == 0 || stem.rfind("lpt", 0) == 0) && stem[3] >= '0' && stem[3] <= '9';
  return !numbered && stem != "con" && stem != "prn" && stem != "aux" && stem != "nul";
}

inline bool is_hash(const std::string& text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

inline TensorSpec read_tensor(const Table& table) {
  TensorSpec tensor;
  tensor.name = table.text("name"), tensor.dtype = table.text("dtype"), tensor.layout = table.text("layout"), tensor.role = table.text("role");
  for (const Json& size : table.list("shape")) {
    tensor.shape.push_back(size.is_null() ? -1 : Table::integer_of(size, table.name("shape"), 1, 2147483647.0));
  }
  const auto open = std::find(tensor.shape.begin() + (tensor.shape.empty() ? 0 : 1), tensor.shape.end(), -1);
  hold(!tensor.shape.empty() && tensor.shape.size() <= 8 && open == tensor.shape.end(), "the tensor '" + tensor.name + "' has a shape that none can have");
  static const std::set<std::string> types = {"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"};
  hold(types.count(tensor.dtype) == 1, "the tensor '" + tensor.name + "' has no type");
  const std::set<char> letters(tensor.layout.begin(), tensor.layout.end());
  hold(letters.size() == tensor.layout.size() && characters(tensor.layout) == tensor.shape.size(), "the tensor '" + tensor.name + "' has a layout of other axes");
  return tensor;
}

/// The shape of a tensor with its axes in this order.
inline std::vector<std::int64_t> in_order(const TensorSpec& tensor, const std::string& layout) {
  std::vector<std::int64_t> shape;
  for (const char letter : layout) {
    const std::size_t at = tensor.layout.find(letter);
    hold(at != std::string::npos && tensor.layout.size() == layout.size(), "the tensor '" + tensor.name + "' has another layout than its role");
    shape.push_back(tensor.shape[at]);
  }
  return shape;
}

inline Artifact read_artifact(const Table& table, bool is_graph, const ModelSpec& model) {
  Artifact made;
  if (is_graph) {
    made.format = "onnx";
    made.typing = table.choice("typing", {"weak", "strong"});
  } else {
    made.format = table.text("format"), made.backend = table.text("backend");
    const Table target = Table::at(table, "target");
    for (std::size_t i = 0; i < target.json().keys().size(); ++i) {
      made.target.emplace_back(target.json().keys()[i], Table::text_of(target.json().list()[i], "target"));
    }
    made.has_view = table.maybe("view") != nullptr;
    hold(!made.has_view || table.maybe("view")->is_table(), "a view is no table");
  }
  made.precision = table.choice("precision", {"fp32", "fp16", "int8"});
  made.file = table.text("file"), made.sha256 = table.text("sha256");
  made.limits = read_limits(Table::at(table, "limits"));
  for (auto [key, tensors] : {std::pair{"inputs", &made.inputs}, std::pair{"outputs", &made.outputs}}) {
    std::set<std::string> names;
    for (const Json& one : table.list(key)) {
      tensors->push_back(read_tensor({one, table.name(key)}));
      hold(!tensors->back().name.empty() && names.insert(tensors->back().name).second, "the " + std::string(key) + " of " + made.file + " have no names of their own");
    }
    hold(!tensors->empty(), made.file + " has no " + key);
  }
  if (made.has_view) return made;
  hold(made.inputs.size() == 1 && made.inputs[0].role == "image", made.file + " takes another input than one image");
  const std::vector<std::int64_t> image = in_order(made.inputs[0], "NCHW");
  const std::vector<std::int64_t> planes = {model.input.channels(), model.input.height, model.input.width};
  hold(std::equal(planes.begin(), planes.end(), image.begin() + 1), "the image of " + made.file + " is not that of the model");
  const Decoding decoding(model);
  const bool decodes = decoding.decoder().decodes([&](const std::string& role) {
    return std::any_of(made.outputs.begin(), made.outputs.end(), [&](const TensorSpec& one) { return one.role == role; });
  });
  std::vector<std::pair<std::string, std::vector<std::int64_t>>> shapes;
  for (const TensorSpec& one : made.outputs) {
    for (const Role& role : decoding.roles(decodes)) {
      if (role.name == one.role) shapes.emplace_back(role.name, in_order(one, role.layout));
    }
  }
  decoding.check_shapes<BundleError>(shapes);
  return made;
}

inline GoldenSpec read_golden(const Table& table) {
  GoldenSpec golden;
  golden.file = table.text("file"), golden.sha256 = table.text("sha256"), golden.reference = table.text("reference");
  const Table tensors = Table::at(table, "tensors");
  for (std::size_t i = 0; i < tensors.json().keys().size(); ++i) {
    const Table one(tensors.json().list()[i], "golden.tensors");
    GoldenTensor tensor;
    tensor.name = tensors.json().keys()[i];
    tensor.dtype = one.choice("dtype", {"uint8", "float32"});
    for (const Json& size : one.list("shape")) {
      hold(size.is_integer(), "golden.tensors has a shape that none can have");
      tensor.shape.push_back(size.integer());
    }
    hold(one.need("offset").is_integer(), "golden.tensors has an offset that none can have");
    tensor.offset = one.need("offset").integer();
    golden.tensors.push_back(std::move(tensor));
  }
  const Table image = Table::at(table, "image");
  golden.color = image.choice("color", {"rgb", "bgr"});
  const double most = std::numeric_limits<double>::max();
  const std::vector<double> box = image.numbers("box", -most, most);
  hold(box.size() == 4, "golden.image.box is no box");
  std::copy(box.begin(), box.end(), golden.box.begin());
  hold(image.need("opencv").is_text(), "golden.image.opencv is no text");
  if (image.json().find("angle_deg") != nullptr) golden.angle_deg = image.number("angle_deg", -most, most);
  return golden;
}

}  // namespace detail

/// A bundle whose files have been checked.
class Bundle {
 public:
  /// Opens the folder of a bundle and checks every hash; throws BundleError where it is missing, damaged, incomplete, or
  /// of another format version.
  static Bundle open(const std::filesystem::path& folder) {
    Bundle bundle;
    bundle.folder_ = folder;
    bundle.read_manifest();
    std::set<std::pair<std::string, std::string>> checked;
    const auto check = [&](const std::string& file, const std::string& hash) {
      if (checked.insert({file, hash}).second) bundle.read(file, hash);
    };
    for (const auto* artifacts : {&bundle.artifacts_, &bundle.graphs_}) {
      for (const Artifact& one : *artifacts) check(one.file, one.sha256);
    }
    check(bundle.golden_.file, bundle.golden_.sha256);
    return bundle;
  }

  const std::filesystem::path& folder() const { return folder_; }
  const ModelSpec& model() const { return model_; }
  const std::vector<Artifact>& artifacts() const { return artifacts_; }
  const std::vector<Artifact>& graphs() const { return graphs_; }
  const GoldenSpec& golden() const { return golden_; }

  /// The first artifact of a format, and of a precision where one is named.
  const Artifact& find(const std::string& format, const std::string& precision = "") const {
    std::string held;
    bool in_parts = false;
    for (const Artifact& one : artifacts_) {
      const bool is_precise = precision.empty() || one.precision == precision;
      in_parts = in_parts || (is_precise && one.format == format + "-parts");
      if (one.format == format && !one.has_view && is_precise) return one;
      held += (held.empty() ? "" : ", ") + one.backend + " " + one.precision + " (" + one.format + ")";
    }
    if (in_parts) {
      throw UsageError("The bundle " + folder_.string() + " holds its graph in parts, which the C++ runtime does not load.", "Export it without --parts.");
    }
    throw UsageError("The bundle " + folder_.string() + " holds no artifact of the format '" + format + "'" +
                         (precision.empty() ? "." : " in " + precision + "."),
                     "It holds: " + (held.empty() ? "none" : held) + ". Export or compile it for that format" +
                         (precision.empty() ? "." : ", or name another precision."));
  }

  /// The bytes of a file, which are those that the manifest describes.
  std::vector<char> read(const std::string& file, const std::string& hash) const {
    std::vector<char> content = read_file(file, std::numeric_limits<std::uintmax_t>::max());
    if (sha256(content.data(), content.size()) != hash) {
      throw BundleError((folder_ / file).string() + " is not the file that the manifest describes (its SHA-256 differs).", kCopyAgain);
    }
    return content;
  }

  /// Where a tensor of the golden file lies in its bytes; throws where it has another type or lies outside.
  template <typename T>
  const T* golden_tensor(const std::vector<char>& content, const std::string& name, std::vector<std::int64_t>& shape) const {
    for (const GoldenTensor& one : golden_.tensors) {
      if (one.name != name) continue;
      const bool is_type = one.dtype == (sizeof(T) == 1 ? "uint8" : "float32");
      const auto size = static_cast<std::int64_t>(content.size());
      std::int64_t bytes = sizeof(T);
      bool inside = one.offset >= 0 && one.offset <= size && one.offset % 16 == 0;
      for (const std::int64_t axis : one.shape) {
        inside = inside && axis >= 0 && axis <= size;
        bytes = inside ? std::min(bytes * axis, size + 1) : bytes;
      }
      if (!is_type || !inside || bytes > size - one.offset) break;
      shape = one.shape;
      return reinterpret_cast<const T*>(content.data() + one.offset);
    }
    throw BundleError("The golden file has no tensor '" + name + "' inside of it.", kCopyAgain);
  }

 private:
  std::vector<char> read_file(const std::string& name, std::uintmax_t most_bytes) const {
    const std::filesystem::path file = folder_ / std::filesystem::u8path(name);
    std::error_code error;
    if (std::filesystem::is_symlink(file, error)) {
      const auto leads_to = std::filesystem::weakly_canonical(file, error).parent_path();
      if (error || leads_to != std::filesystem::weakly_canonical(folder_, error)) {
        throw BundleError(file.string() + " is a link that leads out of the bundle.", "Copy the bundle with its files in the place of links: cp -rL.");
      }
    }
    if (!std::filesystem::is_regular_file(file, error)) {
      throw BundleError("The bundle " + folder_.string() + " lacks its file " + name + ".", kCopyAgain);
    }
    const std::uintmax_t size = std::filesystem::file_size(file, error);
    std::ifstream stream(file, std::ios::binary);
    if (error || !stream) throw BundleError(file.string() + " cannot be read.", "Check its permissions.");
    if (size > most_bytes) throw BundleError(file.string() + " is larger than " + std::to_string(most_bytes >> 20) + " MiB.", kCopyAgain);
    std::vector<char> content(static_cast<std::size_t>(size));
    stream.read(content.data(), static_cast<std::streamsize>(content.size()));
    if (static_cast<std::uintmax_t>(stream.gcount()) != size) throw BundleError(file.string() + " cannot be read.", kCopyAgain);
    return content;
  }

  void read_manifest() {
    using namespace detail;
    const std::vector<char> content = read_file("manifest.json", std::uintmax_t{64} << 20);
    const std::string_view text(content.data(), content.size());
    const Json json = Json::parse(text);
    const Json* version = json.is_table() ? json.find("format_version") : nullptr;
    if (version == nullptr || !version->is_integer() || version->integer() != kFormatVersion) {
      const bool newer = version != nullptr && version->is_integer() && version->integer() > kFormatVersion;
      throw BundleError("manifest.json has another format version; this runtime reads " + std::to_string(kFormatVersion) + ".",
                        newer ? "Upgrade the runtime." : kCopyAgain);
    }
    check_sum(text);
    const Table table(json, "");
    model_ = read_model(Table::at(table, "model"));
    const Table source = Table::at(table, "source");
    for (const char* key : {"checkpoint", "checkpoint_sha256", "tool_version"}) source.text(key);
    std::set<std::string> labels;
    for (const Json& one : table.list("artifacts")) {
      artifacts_.push_back(read_artifact({one, "artifacts"}, false, model_));
      const std::string label = artifacts_.back().backend + " " + artifacts_.back().precision;
      hold(labels.insert(label).second, "it has the artifact '" + label + "' twice");
    }
    if (json.find("graphs") != nullptr) {
      for (const Json& one : table.list("graphs")) graphs_.push_back(read_artifact({one, "graphs"}, true, model_));
    }
    golden_ = read_golden(Table::at(table, "golden"));
    const auto named = [](const std::string& file, const std::string& hash) {
      hold(is_plain_name(file) && file != "manifest.json" && file != "report.json", "'" + file + "' is no name of a file in a bundle");
      hold(is_hash(hash), "the sha256 of " + file + " is none");
    };
    for (const auto* artifacts : {&artifacts_, &graphs_}) {
      for (const Artifact& one : *artifacts) named(one.file, one.sha256);
    }
    named(golden_.file, golden_.sha256);
  }

  /// The checksum is the last key, and the hash of all bytes before it.
  static void check_sum(std::string_view text) {
    const std::string_view key = "\"checksum\"";
    const std::size_t start = text.rfind(key);
    bool whole = start != std::string_view::npos;
    if (whole) {
      std::string_view rest = text.substr(start + key.size());
      const auto blank = [&] {
        const std::size_t more = rest.find_first_not_of(" \t\r\n\v\f");
        rest.remove_prefix(std::min(more, rest.size()));
      };
      const auto take = [&](char one) {
        blank();
        if (rest.empty() || rest[0] != one) return false;
        rest.remove_prefix(1);
        return true;
      };
      whole = take(':') && take('"') && rest.size() > 64 && rest.substr(0, 64) == sha256(text.data(), start);
      if (whole) {
        rest.remove_prefix(64);
        whole = take('"') && take('}') && (blank(), rest.empty());
      }
    }
    if (!whole) throw BundleError("manifest.json was changed after it was written (its checksum differs).", kCopyAgain);
  }

  std::filesystem::path folder_;
  ModelSpec model_;
  std::vector<Artifact> artifacts_, graphs_;
  GoldenSpec golden_;
};

}  // namespace splite
