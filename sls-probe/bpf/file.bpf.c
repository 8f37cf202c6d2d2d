// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* What happens to files. */
#include "file_objects.h"
#include "file_calls.h"
