;; init.el: M-x crab writes the answer into a buffer as it comes.
(require 'jsonrpc)
(defvar crab-link nil)
(defun crab-connect ()
  (jsonrpc-process-connection
   :name "crabd"
   :process (make-network-process :name "crabd" :family 'local :coding 'utf-8-emacs-unix
                                  :service (concat (getenv "XDG_RUNTIME_DIR") "/crabd/crabd.sock"))
   :notification-dispatcher
   (lambda (_link _method event)
     (when (equal (plist-get event :type) "text_delta")
       (with-current-buffer "*crab*"
         (goto-char (point-max))
         (insert (plist-get event :text)))))))
(defun crab-tell (problem)
  (when problem (message "crab: %s" (plist-get problem :message))))
(defun crab (text)
  (interactive "sAsk crab: ")
  (unless (and crab-link (jsonrpc-running-p crab-link)) (setq crab-link (crab-connect)))
  (pop-to-buffer "*crab*")
  (let ((session (jsonrpc-request crab-link :session/get_or_create '(:agent "crab" :sender "emacs"))))
    (jsonrpc-async-request crab-link :session/send (list :session (plist-get session :id) :content text)
                           :success-fn (lambda (result) (crab-tell (plist-get result :error)))
                           :error-fn #'crab-tell :timeout nil)))
