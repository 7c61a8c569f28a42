// ONNX Runtime on the CPU, through its C API.
//
// The library is opened when a program runs, and asked for the interface of 1.17, which every later release has: a binary
// is linked with none of them and serves all. (Linked, the versioned symbols of one release refuse every other.)
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#ifdef _WIN32
#include <windows.h>
#else
#include <dlfcn.h>
#endif

#include <onnxruntime_c_api.h>

#include "bundle.hpp"
#include "error.hpp"
#include "session.hpp"

namespace splite {

/// The library of ONNX Runtime, opened once for the whole program and never closed: its threads may outlive sessions.
class OnnxRuntime {
 public:
  static constexpr std::uint32_t kApiVersion = 17;

  /// `library` is its path; empty asks the variable SPLITE_ONNXRUNTIME, then looks where the system looks.
  static const OnnxRuntime& open(const std::string& library = "") {
    static const OnnxRuntime runtime(library);
    return runtime;
  }

  const OrtApi& api() const { return *api_; }
  const std::string& version() const { return version_; }

  /// Throws what a call reports.
  void check(OrtStatus* status, const std::string& what) const {
    if (status == nullptr) return;
    const std::string said = api_->GetErrorMessage(status);
    api_->ReleaseStatus(status);
    throw BackendError(what + ": " + said.substr(0, said.find('\n')),
                       "Try the same with the Python runtime, splite-deploy verify. A file that fails there, too, has to be exported again.");
  }

 private:
  explicit OnnxRuntime(const std::string& library) {
    std::vector<std::string> names;
    const char* variable = std::getenv("SPLITE_ONNXRUNTIME");
    if (!library.empty()) {
      names = {library};
    } else if (variable != nullptr && *variable != '\0') {
      names = {variable};
    } else {
#if defined(_WIN32)
      names = {"onnxruntime.dll"};
#elif defined(__APPLE__)
      names = {"libonnxruntime.dylib"};
#else
      names = {"libonnxruntime.so", "libonnxruntime.so.1"};
#endif
    }
    using GetBase = const OrtApiBase*(ORT_API_CALL*)();
    GetBase get_base = nullptr;
    std::string said;
    for (const std::string& name : names) {
#ifdef _WIN32
      if (HMODULE handle = LoadLibraryA(name.c_str())) get_base = reinterpret_cast<GetBase>(GetProcAddress(handle, "OrtGetApiBase"));
#else
      void* handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
      if (handle != nullptr) get_base = reinterpret_cast<GetBase>(dlsym(handle, "OrtGetApiBase"));
      if (get_base == nullptr && said.empty()) said = handle == nullptr ? dlerror() : name + " is another library";
#endif
      if (get_base != nullptr) break;
    }
    if (get_base == nullptr) {
      throw BackendError("The library of ONNX Runtime cannot be opened" + (said.empty() ? std::string(".") : ": " + said + "."),
                         "Name it by SPLITE_ONNXRUNTIME: the file libonnxruntime.so of its release, or of the wheel of "
                         "onnxruntime, in onnxruntime/capi.");
    }
    version_ = get_base()->GetVersionString();
    api_ = get_base()->GetApi(kApiVersion);
    if (api_ == nullptr) {
      throw BackendError("ONNX Runtime " + version_ + " is too old.", "Install 1." + std::to_string(kApiVersion) + " or a later one.");
    }
    check(api_->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "splite", &environment_), "ONNX Runtime does not start");
  }

  const OrtApi* api_ = nullptr;
  OrtEnv* environment_ = nullptr;
  std::string version_;
  friend class OrtNetwork;
};

struct OrtOptions {
  int threads = 0;      ///< 0 is ONNX Runtime's default, one per core
  std::string library;  ///< See OnnxRuntime::open
};

/// A graph loaded into ONNX Runtime's CPU provider.
class OrtNetwork : public Session {
 public:
  OrtNetwork(const std::vector<char>& graph, const Artifact& artifact, const OrtOptions& options)
      : runtime_(OnnxRuntime::open(options.library)), input_(artifact.inputs.at(0)), outputs_(artifact.outputs) {
    const OrtApi& api = runtime_.api();
    const std::string loading = "ONNX Runtime " + runtime_.version() + " cannot load " + artifact.file;
    OrtSessionOptions* made = nullptr;
    runtime_.check(api.CreateSessionOptions(&made), loading);
    const std::unique_ptr<OrtSessionOptions, void (*)(OrtSessionOptions*)> settings(made, api.ReleaseSessionOptions);
    runtime_.check(api.SetIntraOpNumThreads(made, options.threads), loading);
    runtime_.check(api.SetInterOpNumThreads(made, 1), loading);
    runtime_.check(api.SetSessionLogSeverityLevel(made, 4), loading);  // what goes wrong is in the exception
    OrtSession* session = nullptr;
    runtime_.check(api.CreateSessionFromArray(runtime_.environment_, graph.data(), graph.size(), made, &session), loading);
    session_ = {session, api.ReleaseSession};
    OrtMemoryInfo* memory = nullptr;
    runtime_.check(api.CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory), loading);
    memory_ = {memory, api.ReleaseMemoryInfo};
    std::size_t inputs = 0, outputs = 0;
    runtime_.check(api.SessionGetInputCount(session, &inputs), loading);
    runtime_.check(api.SessionGetOutputCount(session, &outputs), loading);
    if (inputs != 1 || outputs != outputs_.size()) {
      throw BundleError(artifact.file + " has other inputs or outputs than the manifest says.", kCopyAgain);
    }
    for (const TensorSpec& one : outputs_) names_.push_back(one.name.c_str());
    values_.resize(outputs_.size());
    halves_.resize(outputs_.size());
  }
  ~OrtNetwork() override { release(); }
  OrtNetwork(const OrtNetwork&) = delete;
  OrtNetwork& operator=(const OrtNetwork&) = delete;

  const TensorSpec& input() const override { return input_; }
  const std::vector<TensorSpec>& outputs() const override { return outputs_; }
  std::string engine() const override { return "ONNX Runtime " + runtime_.version(); }

  const Arrays& run(const void* crops, std::int64_t count) override {
    const OrtApi& api = runtime_.api();
    const std::string running = "ONNX Runtime failed";
    release();
    std::vector<std::int64_t> shape = input_.shape;
    if (shape[0] != -1 && shape[0] != count) {
      throw BackendError("The artifact takes " + std::to_string(shape[0]) + " crops at once, not " + std::to_string(count) + ".",
                         "Export the bundle with a dynamic batch, or pass that many boxes.");
    }
    shape[0] = count;
    const bool is_byte = input_.dtype == "uint8";
    std::size_t bytes = is_byte ? 1 : sizeof(float);
    for (const std::int64_t size : shape) bytes *= static_cast<std::size_t>(size);
    OrtValue* made = nullptr;
    // ONNX Runtime takes inputs as they lie, and does not write to them
    runtime_.check(api.CreateTensorWithDataAsOrtValue(memory_.get(), const_cast<void*>(crops), bytes, shape.data(), shape.size(),
                                                      is_byte ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &made), running);
    const std::unique_ptr<OrtValue, void (*)(OrtValue*)> feed(made, api.ReleaseValue);
    const char* name = input_.name.c_str();
    const OrtValue* feeds[] = {made};
    runtime_.check(api.Run(session_.get(), nullptr, &name, feeds, 1, names_.data(), names_.size(), values_.data()), running);
    arrays_.clear();
    for (std::size_t i = 0; i < values_.size(); ++i) arrays_.emplace_back(outputs_[i].role, array_of(i));
    return arrays_;
  }

 private:
  Array array_of(std::size_t index) {
    const OrtApi& api = runtime_.api();
    const std::string reading = "ONNX Runtime gives no tensor '" + outputs_[index].name + "'";
    OrtTensorTypeAndShapeInfo* made = nullptr;
    runtime_.check(api.GetTensorTypeAndShape(values_[index], &made), reading);
    const std::unique_ptr<OrtTensorTypeAndShapeInfo, void (*)(OrtTensorTypeAndShapeInfo*)> info(made, api.ReleaseTensorTypeAndShapeInfo);
    std::size_t rank = 0;
    ONNXTensorElementDataType type{};
    runtime_.check(api.GetDimensionsCount(made, &rank), reading);
    runtime_.check(api.GetTensorElementType(made, &type), reading);
    Array array;
    array.shape.resize(rank);
    runtime_.check(api.GetDimensions(made, array.shape.data(), rank), reading);
    void* data = nullptr;
    runtime_.check(api.GetTensorMutableData(values_[index], &data), reading);
    if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
      array.data = static_cast<const float*>(data);
    } else if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16) {
      const auto* from = static_cast<const std::uint16_t*>(data);
      halves_[index].resize(static_cast<std::size_t>(array.size()));
      for (std::size_t i = 0; i < halves_[index].size(); ++i) halves_[index][i] = of_half(from[i]);
      array.data = halves_[index].data();
    } else {
      throw BackendError("The output '" + outputs_[index].name + "' is neither float32 nor float16.", "Export the bundle again.");
    }
    return array;
  }

  void release() {
    for (OrtValue*& one : values_) {
      if (one != nullptr) runtime_.api().ReleaseValue(one);
      one = nullptr;
    }
  }

  const OnnxRuntime& runtime_;
  TensorSpec input_;
  std::vector<TensorSpec> outputs_;
  std::unique_ptr<::OrtSession, void (*)(::OrtSession*)> session_{nullptr, nullptr};
  std::unique_ptr<OrtMemoryInfo, void (*)(OrtMemoryInfo*)> memory_{nullptr, nullptr};
  std::vector<const char*> names_;
  std::vector<OrtValue*> values_;
  std::vector<std::vector<float>> halves_;
  Arrays arrays_;
};

/// Loads an artifact of the format onnx; `precision` is empty for the first of them.
inline std::unique_ptr<Session> open_ort(const Bundle& bundle, const std::string& precision = "", const OrtOptions& options = {}) {
  const Artifact& artifact = bundle.find("onnx", precision);
  return std::make_unique<OrtNetwork>(bundle.read(artifact.file, artifact.sha256), artifact, options);
}

}  // namespace splite
