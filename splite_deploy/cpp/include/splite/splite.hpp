// The runtime of splite-deploy's bundles for C++17: opens one, finds keypoints in images.
//
//     splite::Bundle bundle = splite::Bundle::open("hand.splite");
//     splite::Estimator estimator(bundle.model(), splite::open_ort(bundle), "rgb");
//     splite::Pose pose = estimator(splite::Image(pixels, rows, columns), splite::Box{x0, y0, x1, y1, {}});
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "bundle.hpp"
#include "estimator.hpp"
#include "ort.hpp"
#include "tracker.hpp"
