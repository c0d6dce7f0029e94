// SPDX-License-Identifier: Apache-2.0 OR MIT
/* C between C++ and C++: an exception goes through it. */

void each(const char *const *words, void (*call)(const char *word, void *arg), void *arg);

void each(const char *const *words, void (*call)(const char *word, void *arg), void *arg)
{
	while (*words)
		call(*words++, arg);
}
