// SPDX-License-Identifier: Apache-2.0
/* C++: exceptions above all, and what runs around main and threads. */
#include "posix.h"
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <future>
#include <iomanip>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <pthread.h>
#include <sstream>
#include <stdexcept>
#include <string>
#include <sys/resource.h>
#include <thread>
#include <typeinfo>
#include <vector>

namespace {

std::string order;	// what was constructed, and what was destroyed

struct traced {
	char name;
	explicit traced(char name) : name(name) { order += name; }
	~traced() { order += static_cast<char>(name - 'a' + 'A'); }
};

struct failure : std::runtime_error {
	int number;
	failure(const char *what, int number) : std::runtime_error(what), number(number) { }
};

struct at_end {
	const char *text;
	bool on = false;
	~at_end()
	{
		if (on)
			std::fputs(text, stdout);
	}
};

// Destroyed in the opposite order, and what was constructed last inside main before both.
at_end global_one{"one."}, global_two{"two."};
std::string global_text = std::string(3, 'g') + std::to_string(2.5);
std::map<std::string, int> global_map{{"one", 1}, {"two", 2}};

[[gnu::noinline]] int deep(int n)
{
	traced here(static_cast<char>('a' + n % 3));

	if (n == 0)
		throw failure("at the bottom", 42);
	return deep(n - 1) + 1;
}

void test_throw()
{
	std::string what;
	int number = 0, caught = 0;

	order.clear();
	try {
		deep(2);
	} catch (const failure &error) {
		what = error.what();
		number = error.number;
	}
	CHECK("cxx.exceptions.caught", what == "at the bottom" && number == 42);
	TEXT("cxx.exceptions.destructors", order.c_str(), "cbaABC");
	try {
		deep(5);
	} catch (const std::logic_error &) {
		caught = 1;
	} catch (const std::exception &) {
		caught = 2;
	} catch (...) {
		caught = 3;
	}
	EQUAL("cxx.exceptions.base_class", caught, 2);
	try {
		throw 17L;
	} catch (int) {
		caught = 1;
	} catch (long n) {
		caught = static_cast<int>(n);
	}
	EQUAL("cxx.exceptions.number", caught, 17);
	try {
		try {
			throw failure("again", 1);
		} catch (failure &error) {
			error.number = 2;
			throw;
		}
	} catch (const failure &error) {
		caught = error.number;
	}
	EQUAL("cxx.exceptions.again", caught, 2);
	try {
		try {
			throw std::out_of_range("inner");
		} catch (...) {
			std::throw_with_nested(failure("outer", 3));
		}
	} catch (const failure &error) {
		try {
			std::rethrow_if_nested(error);
		} catch (const std::out_of_range &inner) {
			what = std::string(error.what()) + "/" + inner.what();
		}
	}
	TEXT("cxx.exceptions.nested", what.c_str(), "outer/inner");
	for (int i = caught = 0; i < 2000; i++) {
		try {
			deep(i % 40);
		} catch (const failure &) {
			caught++;
		}
	}
	EQUAL("cxx.exceptions.two_thousand", caught, 2000);
	try {
		deep(3000);
	} catch (const std::runtime_error &error) {
		caught = 1;
	}
	EQUAL("cxx.exceptions.three_thousand_frames", caught, 1);
	order.clear();
	try {
		traced one('x');
		std::vector<std::unique_ptr<traced>> several;

		several.push_back(std::make_unique<traced>('y'));
		several.push_back(std::make_unique<traced>('z'));
		throw 1;
	} catch (int) {
		order += '!';
	}
	TEXT("cxx.exceptions.members", order.c_str(), "xyzYZX!");
}

template <typename error, typename body> bool throws(body function)
{
	try {
		function();
	} catch (const error &) {
		return true;
	}
	return false;
}

struct base {
	virtual ~base() = default;
};
struct derived : base { };
struct other : base { };

int compare_and_throw(const void *a, const void *b)
{
	if (*static_cast<const int *>(a) == 3 || *static_cast<const int *>(b) == 3)
		throw failure("compared", 3);
	return *static_cast<const int *>(a) - *static_cast<const int *>(b);
}

void test_library()
{
	static int numbers[] = { 5, 4, 3, 2, 1 };
	derived object;
	base *pointer = &object;
	volatile size_t huge = PTRDIFF_MAX;

	CHECK("cxx.exceptions.map_at", throws<std::out_of_range>([] { global_map.at("three"); }));
	CHECK("cxx.exceptions.stoi", throws<std::invalid_argument>([] { (void)std::stoi("none"); }));
	CHECK("cxx.exceptions.bad_alloc", throws<std::bad_alloc>([&] { operator delete(operator new(huge)); }));
	CHECK("cxx.exceptions.bad_cast", throws<std::bad_cast>([&] { (void)dynamic_cast<other &>(*pointer); }));
	CHECK("cxx.dynamic_cast", dynamic_cast<derived *>(pointer) == &object && !dynamic_cast<other *>(pointer));
	CHECK("cxx.typeid", typeid(*pointer) == typeid(derived) && typeid(*pointer) != typeid(base));
	CHECK("cxx.exceptions.out_of_qsort", throws<failure>([] { qsort(numbers, 5, sizeof(int), compare_and_throw); }));
	CHECK("cxx.exceptions.stream", throws<std::ios_base::failure>([] {
		std::istringstream in("x");
		int n;

		in.exceptions(std::ios::failbit);
		in >> n;
	}));
	CHECK("cxx.exceptions.uncaught_count", [] {
		int during = -1;
		struct looks {
			int *to;
			~looks() { *to = std::uncaught_exceptions(); }
		};

		try {
			looks look{&during};
			throw 1;
		} catch (int) {
		}
		return during == 1 && std::uncaught_exceptions() == 0;
	}());
}

int end_by_terminate(void *arg)
{
	rlimit none{};

	setrlimit(RLIMIT_CORE, &none);
	freopen("/dev/null", "w", stderr);	// "terminate called after ..."
	if (arg)
		std::set_terminate([] { _exit(7); });
	throw failure("nobody catches it", 1);
}

int no_throw(void *)
{
	std::set_terminate([] { _exit(8); });
	[]() noexcept { deep(1); }();
	return 0;
}

int throw_in_child(void *)
{
	try {
		deep(10);
	} catch (const failure &error) {
		return error.number;
	}
	return 1;
}

std::atomic<int> local_ends;

struct local {
	int value = 5;
	~local() { local_ends += value; }
};
thread_local local mine;

int slow_start()
{
	nap(20);
	static std::atomic<int> count;
	return ++count;
}

int once()
{
	static int value = slow_start();	// one thread does it, others wait

	return value;
}

void *cancelled(void *arg)
{
	traced here('q');

	try {
		for (;;)
			pause();
	} catch (...) {		// a cancellation goes on through here
		*static_cast<int *>(arg) = 1;
		throw;
	}
}

void test_threads()
{
	std::atomic<int> caught{0}, starts{0};
	std::vector<std::thread> threads;
	std::exception_ptr carried;
	std::mutex mutex;
	std::condition_variable condition;
	pthread_t thread;
	int seen = 0, went = 0;
	void *ret;

	for (int i = 0; i < 4; i++)
		threads.emplace_back([&] {
			for (int n = 0; n < 300; n++) {
				try {
					throw failure("in a thread", n);
				} catch (const failure &error) {
					caught += error.number == n;
				}
			}
		});
	for (auto &one : threads)
		one.join();
	EQUAL("cxx.exceptions.threads", caught.load(), 1200);
	std::thread([&] {
		try {
			throw failure("carried", 9);
		} catch (...) {
			carried = std::current_exception();
		}
	}).join();
	try {
		std::rethrow_exception(carried);
	} catch (const failure &error) {
		seen = error.number;
	}
	EQUAL("cxx.exceptions.carried", seen, 9);
	auto result = std::async(std::launch::async, []() -> int { throw failure("by a future", 11); });
	try {
		result.get();
	} catch (const failure &error) {
		seen = error.number;
	}
	EQUAL("cxx.exceptions.future", seen, 11);
	order.clear();
	NEED(pthread_create(&thread, nullptr, cancelled, &went) == 0);
	NEED(SOON(order == "q"));
	CHECK("cxx.exceptions.cancellation", pthread_cancel(thread) == 0 && pthread_join(thread, &ret) == 0 && ret == PTHREAD_CANCELED &&
	      went == 1 && order == "qQ");

	threads.clear();
	for (int i = 0; i < 4; i++)
		threads.emplace_back([&] { starts += once() == 1; });
	for (auto &one : threads)
		one.join();
	EQUAL("cxx.threads.static_local_once", starts.load(), 4);
	local_ends = 0;
	for (int i = 0; i < 3; i++)
		std::thread([&] { mine.value += i; }).join();
	EQUAL("cxx.threads.thread_local_destructors", local_ends.load(), 5 + 6 + 7);
	std::thread waiter([&] {
		std::unique_lock lock(mutex);

		condition.wait(lock, [&] { return seen == 12; });
		seen = 13;
	});
	{
		std::lock_guard lock(mutex);
		seen = 12;
	}
	condition.notify_all();
	waiter.join();
	EQUAL("cxx.threads.condition_variable", seen, 13);
}

void test_around_main()
{
	const char *text;
	int status;

	TEXT("cxx.global.text", global_text.c_str(), "ggg2.500000");
	CHECK("cxx.global.map", global_map.size() == 2 && global_map["two"] == 2);
	text = output_of([](void *) -> int {
		static at_end inside{"inside.", true};

		global_one.on = global_two.on = true;
		return 3;
	}, nullptr, &status);
	TEXT("cxx.global.destructors", text, "inside.two.one.");
	EQUAL("cxx.global.status", status, 3 << 8);
	text = output_of([](void *) -> int {
		std::cout << "a stream " << std::fixed << std::setprecision(3) << 1.0 / 3 << ' ' << std::hex << 255;
		return 0;
	}, nullptr, &status);
	TEXT("cxx.stream.flushed_at_exit", text, "a stream 0.333 ff");
	CHECK("cxx.exceptions.nobody_catches", killed(in_child(end_by_terminate, nullptr), SIGABRT));
	EQUAL("cxx.exceptions.terminate_handler", in_child(end_by_terminate, &status), 7 << 8);
	EQUAL("cxx.exceptions.out_of_noexcept", in_child(no_throw, nullptr), 8 << 8);
	EQUAL("cxx.exceptions.after_fork", in_child(throw_in_child, nullptr), 42 << 8);
	text = output_of([](void *) -> int {
		execl("/proc/self/exe", "posix", "child", "cxx.throw", static_cast<char *>(nullptr));
		return 99;
	}, nullptr, &status);
	TEXT("cxx.exceptions.after_exec", text, "at the bottom 42");
}

}

extern "C" int cxx_child(const char *what)
{
	if (std::string(what) != "throw")
		return 2;
	try {
		deep(20);
	} catch (const failure &error) {
		std::cout << error.what() << ' ' << error.number;
	}
	return 0;
}

extern "C" int cxx_suite(void)
{
	test_throw();
	test_library();
	test_threads();
	test_around_main();
	return check_failed;
}
