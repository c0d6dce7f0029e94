// SPDX-License-Identifier: Apache-2.0 OR MIT
#include "sum.h"

#include <charconv>
#include <exception>

thread_local int unwound;

namespace {

/* Counts itself if it is left by an exception. */
struct brace {
	const int before = std::uncaught_exceptions();
	~brace() { unwound += std::uncaught_exceptions() > before; }
};

class reader {
public:
	explicit reader(std::string_view text) : text(text) {}

	double all()
	{
		double value = terms();
		if (at < text.size())
			throw sum_error("not understood", at);
		return value;
	}

private:
	double terms()
	{
		double value = factors();
		for (;;)
			if (take('+'))
				value += factors();
			else if (take('-'))
				value -= factors();
			else
				return value;
	}

	double factors()
	{
		double value = one();
		for (;;)
			if (take('*'))
				value *= one();
			else if (std::size_t here = at; take('/')) {
				double by = one();
				if (by == 0)
					throw division("division by zero", here);
				value /= by;
			} else
				return value;
	}

	double one()
	{
		if (take('(')) {
			brace here;
			double value = terms();
			if (!take(')'))
				throw sum_error("no closing brace", at);
			return value;
		}
		double value;
		auto [end, error] = std::from_chars(text.data() + at, text.data() + text.size(), value);
		if (error != std::errc())
			throw sum_error("no number", at);
		at = end - text.data();
		skip();
		return value;
	}

	bool take(char c)
	{
		if (at == text.size() || text[at] != c)
			return false;
		at++;
		skip();
		return true;
	}

	void skip()
	{
		while (at < text.size() && text[at] == ' ')
			at++;
	}

	std::string_view text;
	std::size_t at = 0;
};

}

double sum(std::string_view text)
{
	return reader(text).all();
}
