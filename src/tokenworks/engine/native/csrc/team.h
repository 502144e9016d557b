// The threads of one step. Every thread runs the same code; shared loops and barriers are the only places they meet.
#pragma once

#include <omp.h>

#include <algorithm>
#include <atomic>

namespace tokenworks {

constexpr int kMostThreads = 256;

// How many pieces of each thread's run have been taken, in this shared loop and in the next one.
struct Counters {
    struct alignas(64) Taken {
        std::atomic<long> in[2]{};
    } of[kMostThreads];
};

class Team {
public:
    Team(Counters& counters, int index, int size) : index(index), size(size), counters_(counters) {}

    const int index, size;

    void barrier() {
#pragma omp barrier
    }

    // Calls work(i) for i in [0, count), each once; all calls are done when it returns. Each thread goes through a run of
    // its own, in order, then helps the others: what lies in order in memory is read in order, and a thread that the
    // system takes off its core for a while holds up one piece of work, not its whole run.
    template <class Work>
    void share(long count, Work&& work) {
        const int now = phase_++ & 1;
        counters_.of[index].in[1 - now].store(0, std::memory_order_relaxed);  // of the loop before, which all have left
        for (int k = 0; k < size; ++k) {
            const int owner = (index + k) % size;
            const long begin = count * owner / size, end = count * (owner + 1) / size;
            std::atomic<long>& taken = counters_.of[owner].in[now];
            for (long i; (i = begin + taken.fetch_add(1, std::memory_order_relaxed)) < end;) work(i);
        }
        barrier();
    }

    // The same for pieces of equal and small cost, each thread taking its run whole: work(begin, end).
    template <class Work>
    void split(long count, Work&& work) {
        const long begin = count * index / size, end = count * (index + 1) / size;
        if (begin < end) work(begin, end);
        barrier();
    }

private:
    Counters& counters_;
    long phase_ = 0;
};

// Runs body(team) on `num_threads` threads of OpenMP's pool, the one that PyTorch's operators use as well.
template <class Body>
void run_team(int num_threads, Body&& body) {
    Counters counters;
#pragma omp parallel num_threads(std::min(num_threads, kMostThreads))
    {
        Team team(counters, omp_get_thread_num(), omp_get_num_threads());
        body(team);
    }
}

}  // namespace tokenworks
