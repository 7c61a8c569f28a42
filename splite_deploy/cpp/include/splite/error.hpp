// What every expected failure is: a sentence that says what happened, and a hint that says what to do.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace splite {

/// An expected failure. `what()` is the sentence, `hint()` what to do next.
class Error : public std::runtime_error {
 public:
  Error(const std::string& message, std::string hint) : std::runtime_error(message), hint_(std::move(hint)) {}
  const std::string& hint() const noexcept { return hint_; }

 private:
  std::string hint_;
};

/// The bundle is missing, damaged, or of another format version.
class BundleError : public Error {
  using Error::Error;
};

/// An image, a box or an option cannot be used.
class UsageError : public Error {
  using Error::Error;
};

/// The engine of the backend is missing or failed, or gave what the model does not allow.
class BackendError : public Error {
  using Error::Error;
};

inline constexpr const char* kCopyAgain = "Copy the bundle again, or make it anew with 'splite-deploy export'.";

}  // namespace splite
