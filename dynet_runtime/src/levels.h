// The levels of a processor's instructions: those that this processor has and the library was compiled for.
#pragma once
#include <vector>

#include "level.h"

// Returns the levels, the best first.
const std::vector<const Level*>& levels();

// Returns the best, or the one that the environment variable DYNET_LEVEL names. Throws Failure if there is no such level.
const Level& chosen_level();
