// From the content of a file to a network that is safe to run.
#pragma once
#include "reader.h"

// Reads a whole file. Throws Failure for one that is none, that has another version, or that has been damaged.
Network read_network(Content content);

// Throws Failure unless every operation has values that are known before it, and arrays of the sizes that it reads.
void check_network(Network& network);
