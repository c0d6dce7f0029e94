// SPDX-License-Identifier: Apache-2.0 OR MIT
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string_view>

/* What is wrong with a sum, and where. */
class sum_error : public std::runtime_error {
public:
	sum_error(const char *what, std::size_t column) : std::runtime_error(what), column(column) {}
	const std::size_t column;
};

/* Divides by zero. */
struct division : sum_error {
	using sum_error::sum_error;
};

/* Returns what a sum of numbers, + - * / and parentheses comes to, or throws a sum_error. */
double sum(std::string_view text);

/* Braces that were open when an exception left them, and were closed by it. */
extern thread_local int unwound;

/* In C: calls a function for each word of an array that ends with a null pointer. */
extern "C" void each(const char *const *words, void (*call)(const char *word, void *arg), void *arg);
