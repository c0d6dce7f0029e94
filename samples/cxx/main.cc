// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * C++ whose errors are exceptions: its own and the library's, through functions of C, out of threads,
 * within each other.  `cxx SUM` prints one sum and, if that is wrong, catches nothing.
 */
#include "sum.h"

#include <exception>
#include <filesystem>
#include <future>
#include <iomanip>
#include <iostream>
#include <map>
#include <new>
#include <regex>
#include <sstream>
#include <string>
#include <thread>
#include <typeinfo>
#include <vector>

namespace {

/* Made before main() and gone after it. */
struct lasting {
	std::map<std::string, int> caught;
	~lasting()
	{
		for (const auto &[what, count] : caught)
			std::cout << count << " x " << what << std::endl;
	}
} all;

struct of_thread {
	~of_thread() { std::cout << "the thread's own is gone" << std::endl; }
	int used = 0;
};
thread_local of_thread own;

/* Says what a function throws. */
template <typename Function> void say(const std::string &what, Function function)
{
	std::cout << what << ": ";
	try {
		function();
		std::cout << "nothing thrown";
	} catch (const division &error) {
		std::cout << error.what() << ", column " << error.column;
		all.caught["division"]++;
	} catch (const sum_error &error) {
		std::cout << error.what() << ", column " << error.column;
		all.caught["sum_error"]++;
	} catch (const std::exception &error) {
		std::cout << error.what();
		all.caught["of the library"]++;
	} catch (...) {
		std::cout << "something else";
		all.caught["something else"]++;
	}
	std::cout << std::endl;
}

void print(const char *text, void *arg)
{
	auto &done = *static_cast<int *>(arg);
	std::cout << '[' << text << " = " << std::setprecision(4) << sum(text) << "] ";
	done++;
}

void say_nested(const std::exception &error, int depth = 0)
{
	std::cout << std::string(depth, '>') << error.what() << std::endl;
	try {
		std::rethrow_if_nested(error);
	} catch (const std::exception &inner) {
		say_nested(inner, depth + 1);
	}
}

/* Each thread throws while the others do. */
int in_threads(int count)
{
	std::vector<std::future<double>> results;
	int thrown = 0;

	for (int n = 0; n < count; n++)
		results.push_back(std::async(std::launch::async, [n] {
			double total = 0;
			for (int i = 0; i < 500; i++)
				try {
					total += sum("(1 / (" + std::to_string((n + i) % 2) + "))");
				} catch (const division &) {
					total += 1;
				}
			if (n % 2)
				throw total;
			return total;
		}));
	for (auto &result : results)
		try {
			if (result.get() != 500)
				throw std::logic_error("a thread has counted wrongly");
		} catch (double total) {
			thrown += total == 500;
		}
	return thrown;
}

struct base { virtual ~base() = default; };
struct one : base {};
struct other : base {};

/* Leaves what is made already when its second member throws. */
struct half {
	struct first { ~first() { std::cout << "first member gone, "; } } member;
	int second = std::stoi("99999999999");
};

}

int main(int argc, char **argv)
{
	if (argc > 1) {
		std::cout << sum(argv[1]) << std::endl;
		return 0;
	}

	int done = 0;
	const char *const sums[] = { "2 * (3 + 4)", "1 / 3", "((1 / (2 - 2)))", "never seen", nullptr };
	say("through C", [&] { each(sums, print, &done); });
	std::cout << done << " sums, " << unwound << " braces" << std::endl;
	say("a sum", [] { sum("(2 + x)"); });

	base *object = new other;
	say("dynamic_cast", [&] { (void)dynamic_cast<one &>(*object); });
	say("typeid", [] { base *none = nullptr; (void)typeid(*none).name(); });
	delete object;
	say("map", [] { std::map<int, int>().at(1); });
	say("new", [] { ::operator delete(::operator new(~std::size_t() >> 2)); });
	say("half", [] { half all; });
	say("regex", [] { std::regex("(") ; });
	say("file_size", [] { (void)std::filesystem::file_size("/no/such"); });
	say("stream", [] {
		std::istringstream text("12 x");
		int number;
		text.exceptions(std::ios::failbit);
		text >> number >> number;
	});
	say("number", [] { throw 5; });

	try {
		try {
			sum("1 +");
		} catch (...) {
			std::throw_with_nested(std::runtime_error("the second sum"));
		}
	} catch (const std::exception &error) {
		say_nested(error);
	}

	std::thread([] { own.used++; }).join();
	std::cout << in_threads(8) << " threads have thrown" << std::endl;

	std::exception_ptr kept;
	try {
		sum("8 / 0");
	} catch (...) {
		kept = std::current_exception();
	}
	say("kept", [&] { std::rethrow_exception(kept); });
	return 0;
}
