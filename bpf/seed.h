/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The key of our hashes: eleven odd numbers, drawn for each agent and compiled in as text, so that no
 * expression can have them but through SEED.
 *
 * The compiler cannot look into the one instruction that loads a seed.  Else it would compute with
 * it where it can: byte by byte reversed, or times a constant, a seed would be in the instructions
 * and nobody could find it.  As it is, whoever keeps them takes every seed out and puts others in
 * (agent/images.py).
 */
#pragma once

#define SEED(number)                                                                               \
	({                                                                                         \
		u64 seed_;                                                                         \
		asm("%0 = " SEED_##number " ll" : "=r"(seed_));                                    \
		seed_;                                                                             \
	})
