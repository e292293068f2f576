#!/usr/bin/perl
# The record service. Greets with `220 record HOSTNAME`; a line `PUT text` is appended to
# /data/log, fsynced, then answered `ok NUMBER`; `LIST` prints every line, then `.`.
# One fsync serves all lines that came meanwhile.
use strict;
use warnings;
use IO::Handle;
use IO::Select;
use IO::Socket::INET;

# The engine sets it.
my $hostname = $ENV{HOSTNAME} // 'nameless';
$SIG{PIPE} = 'IGNORE';
$SIG{TERM} = sub { exit 0 };
my $path = '/data/log';
open(my $log, '+>>', $path) or die "open $path: $!";
$log->autoflush(1);
seek($log, 0, 0);
my $count = 0;
my $ends_whole = 1;
while (<$log>) { $count++; $ends_whole = /\n\z/; }
# A line cut off by a crash was never acknowledged: it must not run into the next.
print $log "\n" unless $ends_whole;

my $server = IO::Socket::INET->new(LocalPort => 7000, Listen => 128, ReuseAddr => 1)
    or die "listen: $!";
STDOUT->autoflush(1);
print "record: $count lines, listening\n";
my $select = IO::Select->new($server);
my %pending;
while (1) {
    my @waiting;
    for my $socket ($select->can_read) {
        if ($socket == $server) {
            my $client = $server->accept or next;
            $client->autoflush(1);
            $select->add($client);
            $pending{$client} = '';
            print $client "220 record $hostname\r\n";
            next;
        }
        my $read = sysread($socket, $pending{$socket}, 65536, length $pending{$socket});
        if (!$read || length $pending{$socket} > 1048576) {
            $select->remove($socket);
            delete $pending{$socket};
            close $socket;
            next;
        }
        while ($pending{$socket} =~ s/\A([^\n]*)\n//) {
            my $line = $1;
            $line =~ s/\r\z//;
            if ($line =~ /\APUT (.+)\z/) {
                print $log "$1\n" or die "write: $!";
                $count++;
                push @waiting, [$socket, "ok $count\r\n"];
            } elsif ($line eq 'LIST') {
                open(my $all, '<', $path) or die "open $path: $!";
                while (<$all>) { chomp; print $socket "$_\r\n"; }
                print $socket ".\r\n";
            } else {
                print $socket "what?\r\n";
            }
        }
    }
    next unless @waiting;
    # An acknowledgement that is not on the disk is a lie: rather die.
    $log->sync or die "fsync: $!";
    print { $_->[0] } $_->[1] for @waiting;
}
